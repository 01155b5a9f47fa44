"""The process: starts, stops, and says why it cannot."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import PROJECT, free_ports
from tests.support.eventually import eventually


@contextlib.contextmanager
def process(home: Path, port: int, **variables: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run the real process, and end it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WIREMETER_")}
    environ |= {"WIREMETER_HOME": str(home), "WIREMETER_FRONTPROXY_PORT": str(port)} | variables
    command = [sys.executable, "-m", "services.frontproxy"]
    with subprocess.Popen(command, cwd=PROJECT, env=environ, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


@pytest.fixture
def home() -> Iterator[Path]:
    """A state directory whose sockets have short paths."""
    path = Path(tempfile.mkdtemp(prefix="wm-"))
    yield path
    shutil.rmtree(path)


def health(port: int) -> dict[str, object] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def lines(running: "subprocess.Popen[bytes]") -> list[dict[str, object]]:
    assert running.stderr is not None
    return [json.loads(line) for line in running.stderr.read().splitlines()]


def test_alone_it_serves_and_says_what_is_missing(home: Path):
    """It starts in any order, hears itself, and stops with status 0 when it is asked to."""
    (port,) = free_ports(1)
    with process(home, port) as running:
        eventually("it hears its own heartbeat", lambda: (health(port) or {}).get("processes"))
        report = health(port)
        assert report is not None
        assert report["status"] == "degraded"
        assert [each["name"] for each in report["processes"]] == ["frontproxy"]
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
        events = [line["event"] for line in lines(running)]
        assert events[0] == "process.started"
        assert events[-1] == "process.stopped"
        assert "process.failed" not in events


def test_a_port_in_use_is_one_clear_line_and_status_1(home: Path):
    """supervisord will try again; the log says which setting to change."""
    (port,) = free_ports(1)
    with process(home, port), contextlib.ExitStack() as stack:
        eventually("the first serves", lambda: health(port))
        other = Path(tempfile.mkdtemp(prefix="wm-"))
        stack.callback(shutil.rmtree, other)
        second = stack.enter_context(process(other, port))
        assert second.wait(20) == 1
        errors = [line for line in lines(second) if line["level"] == "error"]
        (error,) = errors
        assert error["event"] == "start.refused"
        assert f"port {port} on 127.0.0.1 cannot be taken: Address already in use" in str(error["problem"])
        assert "frontproxy.port" in str(error["problem"])
        assert health(port) is not None


def test_a_body_limit_that_the_bus_cannot_carry_is_status_78(home: Path):
    """A mistake in the configuration is not worth a restart."""
    (port,) = free_ports(1)
    with process(home, port, WIREMETER_FRONTPROXY_BODY_BYTES_MAX="100000000") as running:
        assert running.wait(20) == 78
        assert "frontproxy.body_bytes_max is 100000000" in json.dumps(lines(running))
