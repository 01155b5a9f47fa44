"""From arguments to exit status."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli.app import command
from tests.support.source import PROJECT
from tests.support.usage_topic import usage_topic

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize("name", ["up", "status", "health", "usage", "tail", "check-config"])
def test_no_command_starts_with_mistakes_in_the_configuration(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 78, all of them at once."""
    wrong = {"WIREMETER_MITM_PORT": "0", "WIREMETER_FRONTPROXY_PORT": "x"}
    assert command([name], wrong, NOW) == 78
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_state_directory_that_cannot_serve_is_a_mistake_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sockets have short paths."""
    assert command(["up"], {"WIREMETER_HOME": str(tmp_path / ("x" * 100))}, NOW) == 78
    assert "set WIREMETER_HOME to a shorter one" in capsys.readouterr().err


@pytest.fixture
def tail() -> Iterator[subprocess.Popen[str]]:
    """`wiremeter tail` with records coming in."""
    with (
        usage_topic() as endpoint,
        subprocess.Popen(
            [sys.executable, "-m", "services.cli", "tail"],
            cwd=PROJECT,
            env=os.environ | {"WIREMETER_ACCOUNTANT_USAGE_ENDPOINT": endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        assert "ok" in process.stdout.readline()
        yield process
        process.kill()


def test_a_reader_that_has_seen_enough_is_no_failure(tail: subprocess.Popen[str]) -> None:
    """`wiremeter tail | head` ends quietly."""
    assert tail.stdout is not None and tail.stderr is not None
    tail.stdout.close()
    assert tail.wait(10) == 0
    assert "Traceback" not in tail.stderr.read()


def test_an_interrupt_is_no_traceback(tail: subprocess.Popen[str]) -> None:
    """Status 130, as shells have it."""
    assert tail.stderr is not None
    tail.send_signal(signal.SIGINT)
    assert tail.wait(10) == 130
    assert "Traceback" not in tail.stderr.read()
