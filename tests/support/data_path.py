"""
mitm's data path in the test's own thread: a client, a relay and a provider, which take turns.

Real TLS, real sockets, a real journal; only the event loop is missing: `dispatch` is one wake-up of it.
"""

import itertools
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from services.bus.journal import Journal
from services.dialects.model_names import ModelNames
from services.events.exchange import Client
from services.events.identity import UlidSource
from services.mitm.config import HostList
from services.mitm.convoy import Convoy
from services.mitm.observation import ObserverParts
from services.mitm.poller import Poller
from services.mitm.relay import Relay
from services.mitm.stream import Scratch, Stream
from services.mitm.upstream import Pool, Route
from services.mitm.wiring import AwaitsUpstream, Wiring
from services.runtime.logs import Logs
from services.runtime.settings import MitmSettings
from tests.support.authority import foreign_authority, load_pair
from tests.support.observing import peer_like
from tests.support.tls_end import WAIT_S, TlsEnd

HOST = "daily-cloudcode-pa.googleapis.com"
CLIENT = Client(uid=1000, pid=4711, executable="agent")


class _NoLoop:
    def add_reader(self, *_: object) -> None: ...
    def remove_reader(self, *_: object) -> None: ...
    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        callback(*arguments)


class _Nobody:
    def relay_ended(self, relay: object) -> None: ...
    def client_left_silently(self, host: str) -> None: ...
    def client_spoke(self, host: str) -> None: ...


class _Nowhere:
    def write(self, line: bytes, /) -> object:
        return None

    def flush(self) -> object:
        return None


class DataPath:
    """
    One client's connection through mitm.

    Attributes:
        client: The client's end.
        provider: The provider's end, once the client has asked for something.
    """

    provider: TlsEnd

    def __init__(self, journal: Journal) -> None:
        logs = Logs("mitm-0", sink=_Nowhere())
        self._awaits: AwaitsUpstream | None = None
        self._others: list[DataPath] = []
        self._poller = Poller(_NoLoop(), logs, Convoy(journal))  # type: ignore[arg-type]
        self._scratch = Scratch()
        self._shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._shown.num_tickets = 0
        load_pair(self._shown, foreign_authority(datetime.now(UTC)))
        self._trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trusting.check_hostname, self._trusting.verify_mode = False, ssl.CERT_NONE
        self._pool = Pool(self._poller, size_max=8, idle_timeout_s=60.0)
        wiring = Wiring(
            poller=self._poller,
            scratch=self._scratch,
            limits=MitmSettings(),
            logs=logs,
            hosts=HostList((HOST,)),
            pool=self._pool,
            observer_parts=ObserverParts(
                outbox=journal,
                logs=logs,
                ids=UlidSource(b"0123456789"),
                model_names=ModelNames(),
                epoch_offset_s=lambda: 1_700_000_000.0,
                decoded_bytes_max=1 << 20,
            ),
            dial=self._dial,
            dial_http2=self._dial,
            dial_tunnel=self._dial,
        )
        self._wiring = wiring
        self._connect()

    def another(self) -> "DataPath":
        """Open another client's connection through the same mitm; closed with this one."""
        opened = copy(self)
        opened._wiring = replace(self._wiring, dial=opened._dial)
        opened._connect()
        self._others.append(opened)
        return opened

    def _connect(self) -> None:
        near, self.client = self._connection(server_side=True)
        self._relay = Relay(near, Route(host=HOST, port=443), peer_like(CLIENT), self._wiring, _Nobody())

    def close(self) -> None:
        """End all of it."""
        for each in (self, *self._others):
            each._relay.stop()
            each.client.sock.close()
            each.provider.sock.close()
        self._pool.close()
        self._poller.close()

    def await_bytes(self) -> None:
        """Wait until there is something for mitm to read."""
        assert select.select([self._poller._epoll], [], [], WAIT_S)[0], "nothing has come"

    def dispatch(self) -> None:
        """Let mitm do what is to be done: one wake-up, and the dial that it asks for."""
        self._poller._dispatch()
        if self._awaits is not None:
            near, self.provider = self._connection(server_side=False)
            self._awaits.upstream_ready(near)
            self._awaits = None

    def _dial(self, route: Route, awaits: AwaitsUpstream) -> None:
        self._awaits = awaits

    def _connection(self, *, server_side: bool) -> tuple[Stream, TlsEnd]:
        """Connect mitm with somebody; `server_side` says which end mitm is."""
        near, far = _tcp_pair()
        near.setblocking(False)
        stream = Stream(near, self._poller, self._scratch)
        ours, theirs = (self._shown, self._trusting) if server_side else (self._trusting, self._shown)
        names = (None, HOST) if server_side else (HOST, None)
        stream.start_tls(ours, server_side=server_side, server_name=names[0])
        with ThreadPoolExecutor(1) as other:
            far_end = other.submit(TlsEnd, far, theirs, server_side=not server_side, server_name=names[1])
            while not stream.handshake():
                assert select.select([near], [], [], WAIT_S)[0], "the other end does not shake hands"
                stream.receive_handshake()
            return stream, far_end.result(WAIT_S)


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        far = socket.create_connection(listening.getsockname())
        near, _ = listening.accept()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


@contextmanager
def data_path(folder: Path) -> Iterator[DataPath]:
    """Open the journal and the connection, and close both."""
    journal = Journal.open(folder, "mitm-0")
    path = DataPath(journal)
    try:
        yield path
    finally:
        path.close()
        journal.close(0)


def events(size: int = 300) -> Iterator[bytes]:
    """Give the events of a Cloud Code stream, each a chunk, with counts that grow."""
    for number in itertools.count(1):
        data = (
            b'data: {"response":{"candidates":[{"content":{"role":"model","parts":[{"text":"%b"}]}}],"usageMetadata":'
            b'{"promptTokenCount":1234,"candidatesTokenCount":%d,"totalTokenCount":%d},"modelVersion":"gemini-3-flash"'
            b',"responseId":"r0123456789abcdef"},"traceId":"9f8e7d6c5b4a3210"}\r\n\r\n'
        ) % (b"x" * size, number, 1234 + number)
        yield b"%x\r\n%b\r\n" % (len(data), data)
