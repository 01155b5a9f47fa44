"""The real process: `python -m services.mitm`, with journal and bus, started and stopped as supervisord does."""

import contextlib
import json
import os
import pwd
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.runtime.state import SHARED_ROOT
from tests.support.checkout import free_ports
from tests.support.eventually import eventually
from tests.support.mitm import get, post, response
from tests.support.raw_upstream import RawUpstream, answering, upstream_authority
from tests.support.source import PROJECT
from tests.support.tls_end import CLOSE_NOTIFY, RESET, TlsEnd

HOST = "a.upstream.test"

pytestmark = pytest.mark.skipif(
    (SHARED_ROOT / pwd.getpwuid(os.geteuid()).pw_name).exists(),
    reason="the redirect is installed for this user: a second instance would replace the bundle that it uses",
)


class Worker:
    """A process, its state directory and its log."""

    def __init__(self, home: Path, port: int, upstream: tuple[str, int], **settings: str) -> None:
        self.home, self.port = home, port
        (home / "empty.toml").touch()
        (home / "extra.pem").write_bytes(upstream_authority().certificate_pem())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WIREMETER_")}
        environment = kept | {
            "WIREMETER_HOME": str(home),
            "WIREMETER_CONFIG": str(home / "empty.toml"),
            "WIREMETER_MITM_PORT": str(port),
            "WIREMETER_MITM_INTERCEPT_HOSTS": "*.upstream.test",
            "WIREMETER_MITM_UPSTREAM_MAP": json.dumps({HOST: f"{upstream[0]}:{upstream[1]}"}),
            "WIREMETER_MITM_UPSTREAM_CA_FILE": str(home / "extra.pem"),
            **settings,
        }
        self._log = (home / "stderr").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.mitm", "0"], cwd=PROJECT, env=environment, stderr=self._log
        )

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.home / "stderr").read_text().splitlines()]

    def wait_event(self, event: str) -> dict[str, object]:
        return eventually(event, lambda: next((line for line in self.lines() if line["event"] == event), None))

    def client(self) -> TlsEnd:
        context = ssl.create_default_context(cafile=str(self.home / "shared" / "ca-bundle.pem"))
        return TlsEnd(socket.create_connection(("127.0.0.1", self.port), timeout=10), context, server_name=HOST)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()


@contextlib.contextmanager
def worker(upstream: tuple[str, int] = ("127.0.0.1", 9), port: int = 0, **settings: str) -> Iterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="wm-", ignore_cleanup_errors=True) as folder:  # short: sockets live there
        running = Worker(Path(folder), port or free_ports(1)[0], upstream, **settings)
        try:
            yield running
        finally:
            running.close()


def test_a_worker_serves_journals_and_stops() -> None:
    """From SIGTERM to status 0 with nothing left to do, and the record is in the journal."""
    upstream = RawUpstream(answering(response(body=b"{}")))
    try:
        with worker(upstream.address) as running:
            running.wait_event("listener.opened")
            with running.client() as client:
                client.send(post(HOST, b'{"model": "claude-x"}'))
                assert client.read(len(response(body=b"{}"))) == response(body=b"{}")
                assert running.stop() == 0
                assert client.wait_gone() == CLOSE_NOTIFY
            assert [line["level"] for line in running.lines() if line["level"] == "error"] == []
            journal = b"".join(path.read_bytes() for path in (running.home / "journal").rglob("*") if path.is_file())
            assert b'"request_model":"claude-x"' in journal
            for path in (running.home / "ca").iterdir():
                assert path.stat().st_mode & 0o077 == 0
    finally:
        upstream.close()


def test_a_dial_that_hangs_does_not_hold_up_the_stop() -> None:
    """supervisord would kill what takes too long, and usage would be told later."""
    over = threading.Event()
    upstream = RawUpstream(lambda link: None, in_clear=lambda sock: over.wait(60) and None)
    try:
        with worker(upstream.address) as running:
            running.wait_event("listener.opened")
            with running.client() as client:
                client.send(get(HOST))
                eventually("it dials", lambda: upstream.accepted)
                assert running.stop() == 0
                assert client.wait_gone() in (CLOSE_NOTIFY, RESET)
    finally:
        over.set()
        upstream.close()


def test_a_port_in_use_is_one_clear_line() -> None:
    """Status 1: supervisord tries again, for the stranger may go."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with worker(port=port) as running:
            assert running.process.wait(15) == 1
            line = running.wait_event("start.refused")
            assert line["problem"] == f"port {port} (mitm.port) is in use by another program"
            assert "traceback" not in (running.home / "stderr").read_text()


def test_a_port_in_use_on_ipv6_only_is_one_clear_line() -> None:
    """Both addresses are needed."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as stranger:
        port = stranger.getsockname()[1]
        with worker(port=port) as running:
            assert running.process.wait(15) == 1
            assert "is in use by another program" in str(running.wait_event("start.refused")["problem"])


def test_mistakes_in_the_configuration_are_told_all_at_once() -> None:
    """Status 78: not worth another try."""
    settings = {"WIREMETER_MITM_INTERCEPT_HOSTS": "*.com,localhost"}
    with worker(**settings) as running:
        assert running.process.wait(15) == 78
        problems = [str(line["problem"]) for line in running.lines() if line["event"] == "config.refused"]
        assert len(problems) == 2 and "'*.com'" in problems[0] and "'localhost'" in problems[1]


def test_an_upstream_ca_file_that_is_missing_is_a_mistake_in_the_configuration() -> None:
    """Named with its path."""
    with worker(WIREMETER_MITM_UPSTREAM_CA_FILE="/nonexistent/ca.pem") as running:
        assert running.process.wait(15) == 78
        assert running.wait_event("config.refused")["problem"] == (
            "mitm.upstream_ca_file /nonexistent/ca.pem: No such file or directory"
        )
