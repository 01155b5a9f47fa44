"""The frame of every process, with processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.runtime.state import StateDirectory
from tests.support.eventually import eventually
from tests.support.source import PROJECT

SERVICE = """
import asyncio, os, sys
from services.runtime.run import StartRefused, run
from services.runtime.settings import ConfigInvalid

async def service(process):
    if "fail" in sys.argv: raise ValueError("no luck")
    if "refuse" in sys.argv: raise ConfigInvalid(["mitm.port is odd", "mitm.port is even"])
    if "taken" in sys.argv:
        async with asyncio.TaskGroup(): raise StartRefused("port 1 is taken")
    if "end" in sys.argv: return
    await process.stopping.wait()

sys.exit(run("tester", service, os.environ))
"""


class Processes:
    """Starts services and sees that they end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WIREMETER_")}
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, *arguments],
            cwd=PROJECT,
            env=kept | {"WIREMETER_HOME": str(self.home)} | environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process


def lines(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    assert process.stderr is not None
    return [json.loads(line) for line in process.stderr]


def events(process: subprocess.Popen[str]) -> list[str]:
    return [line["event"] for line in lines(process)]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def wait_for_start(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert json.loads(process.stderr.readline())["event"] == "process.started"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_it_to_stop(processes: Processes, number: signal.Signals) -> None:
    """Status 0."""
    process = processes.start()
    wait_for_start(process)
    process.send_signal(number)
    assert process.wait(10) == 0
    assert events(process) == ["process.stopped"]


def test_a_failure_is_status_1_with_its_traceback(processes: Processes) -> None:
    """supervisord starts it again."""
    process = processes.start("fail")
    assert process.wait(10) == 1
    failed = lines(process)[-1]
    assert (failed["event"], failed["error"]) == ("process.failed", "ValueError: no luck")


def test_mistakes_in_the_configuration_are_status_78(processes: Processes) -> None:
    """Found at the start, or by the service itself; each on its line."""
    early = processes.start(WIREMETER_MITM_PORT="0", WIREMETER_WRONG="1")
    late = processes.start("refuse")
    assert (early.wait(10), late.wait(10)) == (78, 78)
    assert events(early) == ["config.refused", "config.refused"]
    assert events(late)[-2:] == ["config.refused", "config.refused"]


def test_a_second_one_waits_for_the_role(processes: Processes) -> None:
    """A predecessor that is still dying holds it for a moment."""
    first = processes.start()
    wait_for_start(first)
    second = processes.start()
    eventually("it waits at the lock", lambda: (processes.home / "run" / "tester.lock").exists())
    first.kill()
    wait_for_start(second)
    second.terminate()
    assert second.wait(10) == 0


def test_asked_to_stop_while_it_waits_for_the_role(processes: Processes) -> None:
    """It does not wait to the end."""
    state = StateDirectory(home=processes.home)
    state.make()
    lock = state.take_role("tester")
    try:
        process = processes.start()
        handles = Path(f"/proc/{process.pid}/status")
        eventually("it handles SIGTERM", lambda: _catches(handles, signal.SIGTERM))
        process.terminate()
        assert process.wait(10) == 1
        assert events(process) == ["role.refused"]
    finally:
        os.close(lock)


def _catches(status: Path, number: int) -> bool:
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_it_ends_with_its_parent(processes: Processes) -> None:
    """A killed supervisord leaves no orphans."""
    between = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", between, sys.executable, "-c", SERVICE],
        cwd=PROJECT,
        env=os.environ | {"WIREMETER_HOME": str(processes.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        child = int(parent.stdout.readline())
        assert json.loads(parent.stderr.readline())["event"] == "process.started"
        parent.kill()
        eventually("the child has ended", lambda: not Path(f"/proc/{child}/cmdline").exists() or not _command(child))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_what_keeps_a_service_from_starting_is_told_in_one_line(processes: Processes) -> None:
    """Also out of a task group, which wraps it; supervisord tries again."""
    refused = processes.start("taken")
    assert refused.wait(timeout=20) == 1
    told = lines(refused)
    assert [line["problem"] for line in told if line["event"] == "start.refused"] == ["port 1 is taken"]
    assert not any("traceback" in line for line in told)
