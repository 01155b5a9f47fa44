"""
mitm in this process, joined as app.py joins it, with an outbox that remembers; and clients for it.

    with mitm(tmp_path) as proxy:
        host = proxy.upstream(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))
        with proxy.client(host) as client:
            client.send(...)

Everything but the bus is real: sockets, TLS, certificates, the kernel's word on who connects. It runs in a thread with
an event loop of its own, so that clients and upstreams can block.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvloop

import services.mitm.server as server_module
from services.dialects.model_names import ModelNames
from services.events.identity import UlidSource
from services.mitm.config import SIMULATED_HOST, HostList, MitmConfig
from services.mitm.http2_relay import Http2Relay
from services.mitm.keystore import Keystore
from services.mitm.observation import ObserverParts
from services.mitm.peer import Address, Owner, PeerDirectory
from services.mitm.poller import Poller
from services.mitm.server import Server
from services.mitm.stream import Scratch
from services.mitm.upstream import Dialer, Pool, Route
from services.mitm.wiring import AwaitsUpstream, Wiring
from services.runtime.logs import Logs
from services.runtime.settings import MitmSettings, Settings
from services.runtime.state import StateDirectory
from tests.support.eventually import eventually
from tests.support.http2 import Http2Peer, http2_context
from tests.support.log_lines import LogLines
from tests.support.raw_upstream import DOMAIN, RawUpstream, Script, upstream_authority
from tests.support.tls_end import WAIT_S, TlsEnd

Answer = TypeVar("Answer")
INTERCEPT = (f"*.{DOMAIN}", "api.anthropic.com", "cloudcode-pa.googleapis.com", "generativelanguage.googleapis.com")
_TICK_S = 0.05


class RememberingOutbox:
    """
    Keeps what the observer writes, in order.

    Attributes:
        entries: (`start` | `progress` | `finish`, exchange id, members or list of records).
        on_write: Called with each entry before it is kept, in mitm's own thread.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, str | None, Any]] = []
        self.on_write: Callable[[str, Any], None] = lambda kind, content: None

    def start(self, exchange_id: str, draft: bytes) -> None:
        self._write("start", exchange_id, json.loads(draft))

    def progress(self, exchange_id: str, members: bytes) -> None:
        self._write("progress", exchange_id, json.loads(members))

    def repeats(self, exchange_id: str) -> Callable[[bytes], None]:
        return partial(self.progress, exchange_id)

    def finish(self, exchange_id: str | None, records: Sequence[bytes]) -> None:
        self._write("finish", exchange_id, [json.loads(record) for record in records])

    def _write(self, kind: str, exchange_id: str | None, content: Any) -> None:
        self.on_write(kind, content)
        self.entries.append((kind, exchange_id, content))

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records of all exchanges that are over."""
        return [record for kind, _, records in list(self.entries) if kind == "finish" for record in records]

    def of(self, host: str, at_least: int = 1) -> list[dict[str, Any]]:
        """Return the records of a host, waiting until there are so many."""
        return eventually(
            f"{at_least} records of {host}",
            lambda: found if len(found := [r for r in self.records if r["host"] == host]) >= at_least else None,
        )


class _RedirectedPeers(PeerDirectory):
    """The kernel's answer for a connection that no rule has redirected, though the test says that one did."""

    def __init__(self) -> None:
        super().__init__()
        self.here: Address = ("127.0.0.1", 0)

    def owner_of(self, near: Address, far: Address) -> Owner | None:
        return super().owner_of(near, self.here)


class Mitm:
    """A running mitm; see the module."""

    def __init__(self, config: MitmConfig, original: Address | None) -> None:
        self.config = config
        self.outbox = RememberingOutbox()
        self._sink = LogLines()
        self.logs = Logs("mitm-0", sink=self._sink)
        self._original = original
        self.upstream_map: dict[str, Address] = dict(config.upstream_map)
        self._upstreams: list[RawUpstream] = []
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)

    # -- its life ----------------------------------------------------------

    def start(self) -> None:
        """Start, and wait until it listens."""
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask it to stop, as SIGTERM does."""
        self.loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """Stop everything; what an upstream's script raised is raised here."""
        if self._thread.is_alive():
            self.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "mitm does not stop"
        for upstream in self._upstreams:
            upstream.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        """What app.py does, without the bus."""
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        config = self.config
        self.keystore = Keystore(config, self.logs, lambda: self.now())
        self.poller = Poller(self.loop, self.logs)
        scratch = Scratch()
        self.dialer = Dialer(
            self.poller,
            scratch,
            upstream_map=self.upstream_map,
            contexts=lambda host: (
                self.keystore.simulator_context if host == SIMULATED_HOST else self.keystore.upstream_context
            ),
            http2_contexts=lambda host: self.keystore.http2_upstream_context,
            connect_timeout_s=config.limits.connect_timeout_s,
            handshake_timeout_s=config.limits.handshake_timeout_s,
        )
        limits = config.limits
        self.pool = Pool(self.poller, size_max=limits.pool_size_max, idle_timeout_s=limits.pool_idle_timeout_s)
        peers = PeerDirectory() if self._original is None else _RedirectedPeers()
        async with asyncio.TaskGroup() as tasks:
            self.dials: set[asyncio.Task[None]] = set()

            def dial_with(tls: bool, http2: bool = False) -> Callable[[Route, AwaitsUpstream], None]:
                def dial(route: Route, awaits: AwaitsUpstream) -> None:
                    task = tasks.create_task(self.server.dial(route, awaits, tls=tls, http2=http2))
                    self.dials.add(task)
                    task.add_done_callback(self.dials.discard)

                return dial

            self.wiring = Wiring(
                poller=self.poller,
                scratch=scratch,
                limits=limits,
                logs=self.logs,
                hosts=HostList(config.intercept_hosts),
                pool=self.pool,
                observer_parts=ObserverParts(
                    outbox=self.outbox,
                    logs=self.logs,
                    ids=UlidSource(os.urandom(10)),
                    model_names=ModelNames(),
                    epoch_offset_s=lambda: time.time() - time.monotonic(),
                    decoded_bytes_max=limits.decoded_bytes_max,
                ),
                dial=dial_with(True),
                dial_http2=dial_with(True, http2=True),
                dial_tunnel=dial_with(False),
            )
            self.server = Server(config, self.wiring, self.dialer, self.keystore.server_context, peers)
            self.server.listen()
            listening = self.server._listening[0]  # port 0 was asked for
            self.port: int = listening.getsockname()[1]
            self.ipv6_port: int = self.server._listening[-1].getsockname()[1]
            if isinstance(peers, _RedirectedPeers):
                peers.here = ("127.0.0.1", self.port)
            self._ready.set()
            await self._stopping.wait()
            await self.server.close()
            for task in self.dials:
                task.cancel()
        self.poller.close()
        peers.close()

    def call(self, ask: Callable[[], Answer]) -> Answer:
        """Ask something in mitm's own thread."""

        async def asked() -> Answer:
            return ask()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(WAIT_S)

    # -- what is around it -------------------------------------------------

    def upstream(self, script: Script, *, host: str | None = None, **how: Any) -> str:
        """Start a scripted upstream under a host name of its own; return the name."""
        name = host or f"h{len(self._upstreams)}.{DOMAIN}"
        upstream = RawUpstream(script, **how)
        self._upstreams.append(upstream)
        self.upstream_map[name] = upstream.address
        return name

    @property
    def last_upstream(self) -> RawUpstream:
        """The upstream that was started last."""
        return self._upstreams[-1]

    def dial(self, *, ipv6: bool = False) -> socket.socket:
        """Open a TCP connection to mitm."""
        address = ("::1", self.ipv6_port) if ipv6 else ("127.0.0.1", self.port)
        return socket.create_connection(address, timeout=WAIT_S)

    def context(self) -> ssl.SSLContext:
        """Return a client's context that trusts the published bundle and nothing else."""
        return ssl.create_default_context(cafile=str(self.config.trust_bundle))

    def client(self, host: str, *, context: ssl.SSLContext | None = None, sock: socket.socket | None = None) -> TlsEnd:
        """Connect with TLS, as a redirected client does."""
        sock = sock or self.dial()
        try:
            return TlsEnd(sock, context or self.context(), server_name=host)
        except BaseException:
            sock.close()
            raise

    def http2_client(self, host: str, *protocols: str, **initial: Any) -> Http2Peer:
        """Connect with TLS and HTTP/2, which must be agreed on."""
        context = self.context()
        context.set_alpn_protocols(list(protocols or ("h2",)))
        end = self.client(host, context=context)
        assert end.tls.selected_alpn_protocol() == "h2"
        return Http2Peer(end, is_client=True, **initial)

    def http2_upstream(self, script: Script) -> str:
        """Start a scripted upstream that speaks HTTP/2; return its name."""
        return self.upstream(script, context=http2_context())

    def http2_relays(self, host: str) -> list[Http2Relay]:
        """Return the HTTP/2 connections to a host that are alive."""
        live = self.call(lambda: list(self.server._live))
        return [each for each in live if isinstance(each, Http2Relay) and each._route.host == host]

    def tunnelled(self, target: str, *fields: str) -> tuple[socket.socket, bytes]:
        """Send a CONNECT request; return the socket and the answer's head."""
        sock = self.dial()
        try:
            sock.sendall("\r\n".join([f"CONNECT {target} HTTP/1.1", f"Host: {target}", *fields, "", ""]).encode())
            head = b""
            while not head.endswith(b"\r\n\r\n") and (byte := sock.recv(1)):
                head += byte
        except BaseException:
            sock.close()
            raise
        return sock, head

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of an event so far."""
        return [line for line in list(self._sink.lines) if line["event"] == event]

    def no_errors(self) -> None:
        """Assert that nothing was logged as an error of our own."""
        assert [line for line in self._sink.lines if line["level"] == "error"] == []


def mitm_config(
    folder: Path, *, ca_file: str | None = None, hosts: Sequence[str] = INTERCEPT, **limits: Any
) -> MitmConfig:
    """Make a state directory in `folder` and the configuration of a mitm on port 0 in it."""
    state = StateDirectory(home=folder)
    for path in (state.home, state.ca, state.journal, state.run, state.simulator):
        path.mkdir(mode=0o700, exist_ok=True)
    if ca_file is None:
        path = folder / "test-authority.pem"
        path.write_bytes(upstream_authority().certificate_pem())
        ca_file = str(path)
    settings = Settings(mitm=MitmSettings(intercept_hosts=tuple(hosts), upstream_ca_file=ca_file, **limits))
    config = MitmConfig.from_settings(settings, state)
    shared = folder / "shared"
    return dataclasses.replace(
        config, port=0, trust_bundle=shared / "ca-bundle.pem", authority_certificate=shared / "ca.pem"
    )


@contextlib.contextmanager
def mitm(folder: Path, *, original: Address | None = None, **how: Any) -> Iterator[Mitm]:
    """
    Run a mitm until the block ends; it must not have logged an error of its own by then.

    Args:
        original: Where every client is said to have wanted to go, as if a redirect rule had brought it here.
        how: See `mitm_config`.
    """
    proxy = Mitm(mitm_config(folder, **how), original)
    before = server_module._TICK_S, server_module.original_address
    server_module._TICK_S = _TICK_S  # deadlines are looked at once a second otherwise
    if original is not None:
        server_module.original_address = lambda sock, here: original
    try:
        proxy.start()
        try:
            yield proxy
        finally:
            proxy.close()
    finally:
        server_module._TICK_S, server_module.original_address = before
    proxy.no_errors()


def response(status: str = "200 OK", body: bytes = b"", *fields: str) -> bytes:
    """Write a response with a content-length."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def get(host: str, path: str = "/", *fields: str, method: str = "GET") -> bytes:
    """Write a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode()


def post(host: str, body: bytes, path: str = "/v1/messages", *fields: str) -> bytes:
    """Write a request with a body."""
    return get(host, path, f"Content-Length: {len(body)}", *fields, method="POST") + body
