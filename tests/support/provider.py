"""
The provider stand-in (tests/fakes/provider) as a context manager, and its account of what it sent.

    with provider(tmp_path, names=("api.anthropic.com",)) as stand_in:
        ... stand_in.address, stand_in.ca_file ...
        [answer] = stand_in.answers(at_least=1)
        assert answer["counts"] == ...

All flags and orders are documented in tests/fakes/provider/main.go, orders.go and account.go.
"""

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.go import built

NAMES = (
    "daily-cloudcode-pa.googleapis.com",
    "cloudcode-pa.googleapis.com",
    "generativelanguage.googleapis.com",
    "api.anthropic.com",
    "api.openai.com",
    "chatgpt.com",
    "api.mistral.ai",
    "bedrock-runtime.us-east-1.amazonaws.com",
)
_ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """
    A running stand-in.

    Attributes:
        addresses: `address:port` of each HTTPS listener, in the order asked for.
        plain: The same of the plain HTTP ones.
        control: Socket of the account; it is reached from any network namespace.
        ca_file: PEM of the authority that signed its certificate.
    """

    process: subprocess.Popen[bytes]
    addresses: tuple[str, ...]
    plain: tuple[str, ...]
    control: Path
    ca_file: Path

    @property
    def address(self) -> str:
        """The first HTTPS listener."""
        return self.addresses[0]

    @property
    def port(self) -> int:
        """Port of the first HTTPS listener."""
        return int(self.address.rpartition(":")[2])

    def answers(self, *, after: int = 0, at_least: int = 0, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """Return the records of model answers, waiting until there are `at_least` so many after number `after`."""
        return self._records("answers", after, at_least, timeout_s)

    def requests(self, *, after: int = 0, at_least: int = 0, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """Return the records of all requests, in the order of their arrival."""
        return self._records("requests", after, at_least, timeout_s)

    def order(self, **orders: object) -> None:
        """Say how the next model calls are to be answered: `status=503, times=2`, …; nothing at all forgets that."""
        self._ask("POST" if orders else "DELETE", "/orders", json.dumps(orders).encode())

    def _records(self, kind: str, after: int, at_least: int, timeout_s: float) -> list[dict[str, Any]]:
        def enough() -> tuple[list[dict[str, Any]]] | None:
            records = self._ask("GET", f"/{kind}?after={after}")[kind]
            return (records,) if len(records) >= at_least else None

        return eventually(f"at least {at_least} {kind} of the provider stand-in", enough, timeout_s)[0]

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        connection = _UnixConnection(self.control)
        try:
            connection.request(method, path, body)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("control", timeout=_ASK_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def provider(
    folder: Path,
    *,
    listen: Sequence[str] = ("127.0.0.1:0",),
    plain: Sequence[str] = (),
    names: Sequence[str] = NAMES,
    flags: Sequence[str] = (),
    inside: Sequence[str] = (),
) -> Iterator[Provider]:
    """
    Run a stand-in until the block ends; `folder` gets its `ca.pem`.

    Args:
        flags: More flags, such as `--http2`, `--certificate expired`, `--delay 20ms`.
        inside: Command to run it with, such as `("ip", "netns", "exec", "name")`.
    """
    ca_file = folder / "ca.pem"
    with tempfile.TemporaryDirectory(prefix="wm-provider-") as run:  # short: socket paths have 107 bytes
        control = Path(run) / "control"
        command = [*inside, str(built("provider")), "--until-stdin-ends", "--ca-file", str(ca_file)]
        command += ["--control", f"unix:{control}", "--names", ",".join(names), *flags]
        for address in listen:
            command += ["--listen", address]
        for address in plain:
            command += ["--plain", address]
        with _running(command) as (process, ready):
            yield Provider(
                process=process,
                addresses=tuple(ready["listening"]),
                plain=tuple(ready["plain"]),
                control=control,
                ca_file=ca_file,
            )


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        # One line, or the end when it could not start; its own words are on stderr.
        ready = json.loads(process.stdout.readline() or b"null")
        assert ready is not None, f"the provider stand-in did not start: {command}"
        yield process, ready
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
