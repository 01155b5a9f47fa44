"""
Our process tree: supervisord's control socket, its processes and their logs.

Everything is addressed by the checkout: `supervisord.conf` there, the socket and the logs in `run/` beside it.
"""

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Of a request to supervisord, which answers from memory.
_ANSWER_TIMEOUT_S = 10.0
_POLL_S = 0.1
# From supervisord's start to the last process that answers, on a machine that is busy.
_START_TIMEOUT_S = 5.0
# The end of a log, enough for a traceback.
_LOG_TAIL_BYTES = 16 * 1024
# State codes of supervisor.process.ProcessStates: STOPPED, EXITED, FATAL, UNKNOWN.
_DOWN = frozenset({0, 100, 200, 1000})


class TreeFailed(Exception):
    """supervisord did not do what was asked; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """
    One process as supervisord sees it.

    Attributes:
        name: `mitm-0`, `accountant`, …
        state: supervisord's word: RUNNING, EXITED, …
        exit_status: Of its last end; 0 also when it has never ended.
    """

    name: str
    state: str
    is_down: bool
    pid: int
    exit_status: int
    log: Path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        with contextlib.ExitStack() as undo:
            connected = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connected.settimeout(self.timeout)
            connected.connect(self._path)
            undo.pop_all()
        self.sock = connected


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: tuple[str, dict[str, str]] | str) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = (host, connection)  # what close() closes
        return connection


class ProcessTree:
    """supervisord and its processes of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self.run = checkout / "run"
        self._socket = self.run / "supervisor.sock"

    def pid(self) -> int | None:
        """Return the pid of the supervisord that answers here, None if none does."""
        try:
            pid = self._ask("supervisor.getPID")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return None
        return pid if isinstance(pid, int) else None

    def start(self) -> None:
        """
        Start supervisord, which goes into the background with its processes.

        Raises:
            TreeFailed: It refused; the message is its own.
        """
        started = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            cwd=self._checkout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o077,
            check=False,
        )
        if started.returncode != 0:
            # The rest of its help text is no help here.
            raise TreeFailed(started.stdout.strip().partition("\nFor help")[0] or "supervisord did not start")

    def processes(self) -> list[ProcessState]:
        """
        Return the processes in the order in which they start.

        Raises:
            TreeFailed: supervisord does not answer.
        """
        try:
            rows = self._ask("supervisor.getAllProcessInfo")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise TreeFailed(f"supervisord does not answer on {self._socket}: {error}") from error
        assert isinstance(rows, list)
        return [
            ProcessState(
                name=row["name"],
                state=row["statename"],
                is_down=row["state"] in _DOWN,
                pid=row["pid"],
                exit_status=row["exitstatus"],
                log=Path(row["logfile"]),
            )
            for row in rows
        ]

    def status(self) -> str:
        """Return what `supervisorctl status` prints."""
        shown = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisord.conf", "status"],
            cwd=self._checkout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return shown.stdout.rstrip()

    def shut_down(self) -> None:
        """
        Ask supervisord to stop its processes and itself; return at once.

        Raises:
            TreeFailed: It does not answer.
        """
        try:
            self._ask("supervisor.shutdown")
        except xmlrpc.client.Fault as error:
            # Somebody else has asked already.
            if "SHUTDOWN_STATE" not in error.faultString:
                raise TreeFailed(f"supervisord refuses to shut down: {error.faultString}") from error
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise TreeFailed(f"supervisord does not answer on {self._socket}: {error}") from error

    def _ask(self, method: str) -> object:
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(str(self._socket)))
        with contextlib.closing(proxy("transport")):
            answer: object = getattr(proxy, method)()
            return answer


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a log, none if it cannot be read."""
    try:
        with log.open("rb") as lines:
            lines.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            return lines.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask `condition` until it holds or the time is over; return what it said last."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(_POLL_S)
    return True


def problem_once_started(tree: ProcessTree, problem: Callable[[], str | None]) -> str | None:
    """Return what is the matter, None when nothing is. Where supervisord runs, a start gets the time that it takes."""
    found = problem()
    if found is None or tree.pid() is None:
        return found
    wait_until(lambda: problem() is None, _START_TIMEOUT_S)
    return problem()
