"""
The frame of every process: configuration, event loop, signals, exit status, the tie to supervisord.

A service is a coroutine function that serves until `stopping` is set, closes what it opened, and returns. SIGTERM and
SIGINT set `stopping`. When the parent dies the process gets SIGTERM too: children of a killed supervisord would go on
as orphans that hold its successors' ports.

Exit status: 0 asked to stop, 1 failed (supervisord starts it again), 78 a mistake in the configuration.
"""

import asyncio
import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import uvloop

from services.runtime.logs import Level, Logs
from services.runtime.settings import EXIT_CONFIG, ConfigInvalid, Settings, read_settings
from services.runtime.state import RoleTaken, StateDirectory, StateUnusable

VERSION = "0.1.0"
# How long a process waits for its role: a predecessor that is still dying holds it for a moment.
ROLE_WAIT_S = 15.0
# Twice mitm.connections_max's default, and some.
DESCRIPTORS_MAX = 20_000
_ROLE_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """
    What a service is given.

    Attributes:
        name: `mitm-0`, `accountant`, …: on the bus, in the logs, its lock.
        stopping: Set when the process is asked to stop.
    """

    name: str
    settings: Settings
    state: StateDirectory
    logs: Logs
    stopping: asyncio.Event


Service = Callable[[Process], Awaitable[None]]


class StartRefused(Exception):
    """A service cannot start for a reason outside of it (its port is in use): told in one line, exit status 1."""


def run(name: str, service: Service, environ: Mapping[str, str]) -> int:
    """Run one service until it is asked to stop; return the exit status."""
    logs = Logs(name, level=Level.DEBUG if "-v" in sys.argv[1:] else Level.INFO)
    os.umask(0o077)  # what we make is ours; what others must read gets its rights explicitly
    tie_to_parent()
    raise_descriptor_limit()
    try:
        settings = read_settings(environ)
        state = StateDirectory.from_environ(environ)
        state.make()
    except ConfigInvalid as error:
        for problem in error.problems:
            logs.error("config.refused", problem=problem)
        return EXIT_CONFIG
    except StateUnusable as error:
        logs.error("state.refused", problem=str(error))
        return EXIT_CONFIG
    return uvloop.run(_supervised(name, service, settings, state, logs))


def raise_descriptor_limit() -> None:
    """Take as many descriptors as we may have: every connection through mitm costs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def tie_to_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies (prctl(2) PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # A parent that died before the call sends nothing any more.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


async def _supervised(name: str, service: Service, settings: Settings, state: StateDirectory, logs: Logs) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        lock = await _take_role(name, state, stopping)
    except RoleTaken as error:
        logs.error("role.refused", problem=str(error))
        return 1
    logs.info("process.started", pid=os.getpid(), version=VERSION, home=str(state.home))
    process = Process(name=name, settings=settings, state=state, logs=logs, stopping=stopping)
    try:
        # What start-up made lives for ever: keep the collector from walking through it again and again.
        gc.freeze()
        await service(process)
    except Exception as error:
        return _told(error, logs)
    finally:
        os.close(lock)
    logs.info("process.stopped")
    return 0


def _told(error: Exception, logs: Logs) -> int:
    """Log why a service ended, and return its exit status."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a TaskGroup wraps what its body raises
    if isinstance(error, ConfigInvalid):
        for problem in error.problems:
            logs.error("config.refused", problem=problem)
        return EXIT_CONFIG
    if isinstance(error, StartRefused):
        logs.error("start.refused", problem=str(error))
    else:
        logs.error("process.failed", error=error)
    return 1


async def _take_role(name: str, state: StateDirectory, stopping: asyncio.Event) -> int:
    deadline = asyncio.get_running_loop().time() + ROLE_WAIT_S
    while True:
        try:
            return state.take_role(name)
        except RoleTaken:
            if stopping.is_set() or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_ROLE_POLL_S)
