"""
A real mitm, and if wanted an accountant, between a provider and clients of ours: each a process, everything on.

    with proxied(accountant=True) as system:
        async with system.client(HOST) as client:
            await client.ask("/v1internal:streamGenerateContent?alt=sse&n=10&size=400&every=0")
        ... processor_s(system.mitm) ...
"""

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import environ_for
from services.mitm.authority import make_authority, make_leaf, make_leaf_key
from services.runtime.state import StateDirectory
from tests.support.checkout import PROJECT, free_ports

HOST = "daily-cloudcode-pa.googleapis.com"
_DOMAIN = "googleapis.com"
_START_TIMEOUT_S = 30.0
_BODY = b'{"model":"gemini-3-flash","request":{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}}'


@dataclass(frozen=True, slots=True)
class Client:
    """A connection to the provider, through mitm, kept open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str

    async def ask(self, path: str) -> int:
        """Make one request; return how many bytes the body of its answer had."""
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        self.writer.write(f"{head}Content-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY)
        head_back = await self.reader.readuntil(b"\r\n\r\n")
        assert head_back.startswith(b"HTTP/1.1 200 "), head_back
        if b"content-length: 200" in head_back:
            return len(await self.reader.readexactly(200))
        got, end = 0, b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            data = await self.reader.read(1 << 20)
            assert data, "the answer broke off"
            got += len(data)
            end = (end + data)[-7:]
        return got


@dataclass(frozen=True, slots=True)
class Proxied:
    """
    What runs.

    Attributes:
        mitm: Its process id.
        usage_endpoint: Of the accountant's topic.
    """

    mitm: int
    port: int
    home: Path
    usage_endpoint: str
    context: ssl.SSLContext

    @contextlib.asynccontextmanager
    async def client(self, host: str = HOST) -> AsyncIterator[Client]:
        """Connect as a redirected client does."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=host, limit=1 << 20, ssl_handshake_timeout=60
        )
        try:
            yield Client(reader, writer, host)
        finally:
            writer.close()


@contextlib.contextmanager
def proxied(*, accountant: bool = False, hosts: Sequence[str] = (HOST,)) -> Iterator[Proxied]:
    """Start the processes, wait until mitm listens, and end them at the end."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wm-")))
        authority_file, certificate_file = _make_certificates(home)
        provider = _start(stack, ["bench.provider", str(certificate_file)], None, stdout=subprocess.PIPE)
        assert provider.stdout is not None
        address = f"127.0.0.1:{int(provider.stdout.readline())}"
        port, usage_port = free_ports(2)
        usage_endpoint = f"tcp://127.0.0.1:{usage_port}"
        settings = home / "wiremeter.toml"
        settings.write_text(
            f"[mitm]\nport = {port}\nintercept_hosts = {json.dumps(list(hosts))}\n"
            f'upstream_ca_file = "{authority_file}"\npool_size_max = 4096\n'
            f"upstream_map = {{ {', '.join(f'{json.dumps(host)} = {json.dumps(address)}' for host in hosts)} }}\n"
            f'[accountant]\nusage_endpoint = "{usage_endpoint}"\n'
        )
        environ = environ_for(home / "state") | {"WIREMETER_CONFIG": str(settings)}
        if accountant:
            _start(stack, ["services.accountant"], environ)
        mitm = _start(stack, ["services.mitm"], environ)
        bundle = StateDirectory(home=home / "state").trust_bundle
        _await_listening(port, bundle, mitm)
        yield Proxied(mitm.pid, port, home / "state", usage_endpoint, ssl.create_default_context(cafile=str(bundle)))


def _make_certificates(home: Path) -> tuple[Path, Path]:
    now = datetime.now(UTC)
    authority = make_authority([_DOMAIN], now, "bench authority")
    leaf = make_leaf(authority, make_leaf_key(), f"*.{_DOMAIN}", now)
    authority_file, certificate_file = home / "authority.pem", home / "provider.pem"
    authority_file.write_bytes(authority.certificate_pem())
    certificate_file.write_bytes(leaf.certificate_pem() + leaf.key_pem())
    return authority_file, certificate_file


def _start(
    stack: contextlib.ExitStack, module: Sequence[str], environ: dict[str, str] | None, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", *module], cwd=PROJECT, env=environ, stdout=stdout, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def _await_listening(port: int, bundle: Path, mitm: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            if bundle.exists():
                return
        assert mitm.poll() is None and time.monotonic() < deadline_s, "mitm does not start"
        time.sleep(0.02)
