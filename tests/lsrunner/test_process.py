"""Processes as the runner holds them: asked, drained, ended."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from services.lsrunner.lodging import Command
from services.lsrunner.process import GuardedProcess, ask, first_line_of
from tests.lsrunner.test_guard import GUARD, has_gone, lives

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def python(code: str) -> Command:
    """Return a command that runs it."""
    return Command(argv=(sys.executable, "-c", code), environ=ENVIRONMENT)


def guarded(code: str) -> Command:
    """Return the same behind the guard."""
    program = (sys.executable, "-u", "-c", code)
    return Command(argv=(sys.executable, "-IS", str(GUARD), "null", "0.3", "/", *program), environ=ENVIRONMENT)


def with_process(code: str, story: Callable[[GuardedProcess], Coroutine[Any, Any, None]]) -> None:
    """Run a story with a guarded process that is attended to, and stopped at the end."""

    async def run() -> None:
        process = await GuardedProcess.start(guarded(code), keeps_stdin=False, stdout_is_protocol=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(process.attend())
            try:
                await story(process)
            finally:
                await process.stop()

    uvloop.run(run())


def test_a_short_process_is_asked():
    """Status and both outputs."""
    answer = uvloop.run(ask(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), 10))
    assert (answer.status, answer.stdout, answer.stderr) == (3, "out\n", "err\n")


def test_a_short_process_that_takes_too_long_is_killed():
    """And waited for, so that nothing is left."""
    with pytest.raises(TimeoutError):
        uvloop.run(ask(python("import time; time.sleep(60)"), 0.2))


def test_a_process_that_waits_is_let_go_at_the_end_of_the_block():
    """It sees the end of its input."""

    async def story():
        waits = python("import sys; print('here', flush=True); sys.stdin.read(); sys.exit(0)")
        async with first_line_of(waits, 10) as line:
            assert line == b"here\n"

    uvloop.run(story())


def test_log_lines_are_given_from_the_first_one_on():
    """Standard error and output, without the guard's own; late listeners hear all that is kept."""
    code = "import sys; print('one', file=sys.stderr); sys.stderr.flush(); print('two')"

    async def story(process: GuardedProcess) -> None:
        assert await process.exited() == 0
        assert sorted([line async for line in process.lines()]) == ["one", "two"]
        assert sorted([line async for line in process.lines()]) == ["one", "two"]

    with_process(code, story)


def test_lines_come_while_the_program_runs():
    """A profile finds its port there."""

    async def story(process: GuardedProcess) -> None:
        async for line in process.lines():
            assert line == "listening"
            break
        assert process.pid is not None and lives(process.pid)
        assert await process.started() == process.pid

    with_process("import time; print('listening'); time.sleep(60)", story)


def test_a_program_that_writes_much_is_never_blocked():
    """Nobody reads its lines, and it comes to its end all the same."""

    async def story(process: GuardedProcess) -> None:
        assert await process.exited() == 0
        assert process.memory.bytes_seen > 20_000_000
        assert len(process.memory.tail()) <= 256 * 1024

    with_process("import sys\nfor _ in range(200): sys.stderr.write('x' * 99 + '\\n' + 'y' * 100_000)", story)


def test_a_helper_that_holds_the_pipes_does_not_hold_us():
    """It left the group, so the guard cannot end it; the end of the program is the end."""
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(5)\n"

    async def story(process: GuardedProcess) -> None:
        async with asyncio.timeout(4):
            assert await process.exited() == 0
        assert process.end == "it ended with status 0"

    with_process(code, story)


def test_stopping_ends_a_program_that_does_not_want_to():
    """After the guard's grace."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on'); time.sleep(60)"

    async def story(process: GuardedProcess) -> None:
        async for _ in process.lines():
            break
        pid = await process.started()
        await process.stop()
        assert not lives(pid)
        assert process.end == "it was ended by signal 9"

    with_process(code, story)


def test_a_guard_that_is_stopped_does_not_save_the_program(monkeypatch):
    """SIGSTOP is the one thing that it cannot answer to; then it is killed, and the kernel ends the program."""
    monkeypatch.setattr("services.lsrunner.process._GUARD_MARGIN_S", 0.1)
    monkeypatch.setattr("services.lsrunner.process.STOP_GRACE_S", 0.1)

    async def story(process: GuardedProcess) -> None:
        pid = await process.started()
        os.kill(process.outer_pid, signal.SIGSTOP)
        await process.stop()
        has_gone(pid)

    with_process("import time; time.sleep(60)", story)
