"""
Processes: short ones that are asked something, and the guarded one that is the language server.

Resources: a `GuardedProcess` owns the process that it started and its pipes; `attend` drains them until the end, and
`stop` makes that end come. When `attend` is cancelled the process is not stopped; whoever cancels calls `stop`.
"""

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.lsrunner.lines import LineMemory
from services.lsrunner.lodging import GUARD_SAYS, STOP_GRACE_S, Command, end_of

_READ_BYTES = 64 * 1024
# A protocol line may hold a whole file that an agent read.
PROTOCOL_LINE_BYTES_MAX = 16 * 1024 * 1024
# What the guard needs beside the program's own grace, and then what sudo needs.
_GUARD_MARGIN_S = 2.0
# Descendants that left the group may hold the pipes open for ever.
_DRAIN_AFTER_END_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a short process ended."""

    status: int
    stdout: str
    stderr: str


async def ask(command: Command, timeout_s: float) -> Answer:
    """
    Run a short process to its end.

    Raises:
        OSError: It cannot be started.
        TimeoutError: It took too long and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *command.argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, cwd="/", env=dict(command.environ)
    )
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate()
    finally:
        await _end(process)
    assert process.returncode is not None
    return Answer(
        status=process.returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )


@contextlib.asynccontextmanager
async def first_line_of(command: Command, timeout_s: float) -> AsyncIterator[bytes]:
    """
    Give the first line of a short process that waits for the end of its input; leaving the block is that end.

    Raises:
        OSError: It cannot be started.
        TimeoutError: It took too long and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *command.argv, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd="/", env=dict(command.environ)
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        async with asyncio.timeout(timeout_s):
            yield await process.stdout.readline()
            process.stdin.close()
            await process.wait()
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class GuardedProcess:
    """The language server behind its guard; fits `profiles.Child`."""

    def __init__(self, process: Process, keeps_stdin: bool, stdout_is_protocol: bool) -> None:
        self._process = process
        self._keeps_stdin = keeps_stdin
        self._stdout_is_protocol = stdout_is_protocol
        self._pid: int | None = None
        self._first_line = ""
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self.memory = LineMemory()

    @classmethod
    async def start(cls, command: Command, *, keeps_stdin: bool, stdout_is_protocol: bool) -> "GuardedProcess":
        """
        Start it.

        Raises:
            OSError: Not even sudo or the interpreter can be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=PIPE,  # always: its end is what ends the language server
            stdout=PIPE,
            stderr=PIPE,
            cwd="/",  # ours may be closed to the other user
            env=dict(command.environ),
            limit=PROTOCOL_LINE_BYTES_MAX,
        )
        return cls(process, keeps_stdin, stdout_is_protocol)

    @property
    def pid(self) -> int | None:
        """Of the program itself, once the guard has told it."""
        return self._pid

    async def started(self) -> int:
        """See `profiles.Child`; never returns when the program cannot be started."""
        while self._pid is None:
            await self._changed.wait()
        return self._pid

    @property
    def outer_pid(self) -> int:
        """Of what we started: sudo, or the guard."""
        return self._process.pid

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """See `profiles.Child`."""
        return self._process.stdin if self._keeps_stdin else None

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """See `profiles.Child`."""
        return self._process.stdout if self._stdout_is_protocol else None

    async def attend(self) -> int:
        """Drain what the process writes until it has ended; return its status."""
        try:
            async with asyncio.TaskGroup() as group:
                drains = [group.create_task(self._drain(self._process.stderr))]
                if not self._stdout_is_protocol:
                    drains.append(group.create_task(self._drain(self._process.stdout)))
                status = await self._process.wait()
                await asyncio.wait(drains, timeout=_DRAIN_AFTER_END_S)
                for drain in drains:
                    drain.cancel()
            return status
        finally:
            if self._process.returncode is not None:
                # A descendant that holds a pipe would keep our end open too, one more with each restart.
                self._process._transport.close()  # type: ignore[attr-defined]  # asyncio has no public name for it
            self.memory.end()
            self._drained.set()
            self._announce()

    async def _drain(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while data := await stream.read(_READ_BYTES):
            self.memory.feed(data)
            if self._pid is None:
                self._learn_pid()
            self._announce()

    def _learn_pid(self) -> None:
        for line in self.memory.since(0)[1]:
            self._first_line = self._first_line or line
            if line.startswith(GUARD_SAYS + "pid "):
                self._pid = int(line.removeprefix(GUARD_SAYS + "pid "))
                return
            if line.startswith(GUARD_SAYS):
                self._first_line = line

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def lines(self) -> AsyncIterator[str]:
        """See `profiles.Child`."""
        number = 0
        while True:
            changed, drained = self._changed, self._drained.is_set()
            number, found = self.memory.since(number)
            for line in found:
                if not line.startswith(GUARD_SAYS):
                    yield line
            if drained:
                return
            if self._changed is changed:
                await changed.wait()

    async def exited(self) -> int:
        """See `profiles.Child`; its last lines have been read by then, so `attend` must be running."""
        await self._drained.wait()
        return await self._process.wait()

    @property
    def end(self) -> str:
        """Say how it ended, for people."""
        assert self._process.returncode is not None
        return end_of(self._process.returncode, self._pid is not None, self._first_line)

    async def stop(self) -> None:
        """
        End the program, and what it started; return when it has ended.

        The end of the guard's input does it, with its own grace. The signals are for a guard that is stopped or stuck.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        for patience_s, escalate in (
            (STOP_GRACE_S + _GUARD_MARGIN_S, self._process.terminate),
            (STOP_GRACE_S + _GUARD_MARGIN_S, self._process.kill),
        ):
            try:
                async with asyncio.timeout(patience_s):
                    await self._process.wait()
                    return
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    escalate()
        await self._process.wait()
