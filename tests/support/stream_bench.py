"""A stream of mitm's whose poller turns when the test says so."""

import socket
import ssl
import threading

from services.mitm.poller import Poller
from services.mitm.stream import NOTHING_YET, Scratch, Stream, TlsFailed
from services.runtime.logs import Logs
from tests.support.log_lines import LogText
from tests.support.raw_upstream import server_context, upstream_authority
from tests.support.tls_end import TlsEnd

HOST = "a.upstream.test"


class Loop:
    """Runs callbacks when the test says so; the poller needs nothing else of an event loop."""

    def __init__(self) -> None:
        self._soon: list[object] = []

    def add_reader(self, *_: object) -> None:
        pass

    def remove_reader(self, *_: object) -> None:
        pass

    def call_soon(self, callback: object) -> None:
        self._soon.append(callback)

    def run(self) -> None:
        while self._soon:
            self._soon.pop(0)()  # type: ignore[operator]


class Bench:
    """
    A stream in the test's hands, and the socket at its other end.

    Args:
        beside: Shares its poller with this one.
    """

    def __init__(self, beside: "Bench | None" = None) -> None:
        self._shares = beside is not None
        self.loop = beside.loop if beside else Loop()
        self.lines = beside.lines if beside else LogText()
        self.poller = (
            beside.poller if beside else Poller(self.loop, Logs("test", sink=self.lines))  # type: ignore[arg-type]
        )
        self.scratch = beside.scratch if beside else Scratch()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.far = socket.create_connection(listening.getsockname(), timeout=10)
            near, _ = listening.accept()
        near.setblocking(False)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.near = near
        self.stream = Stream(near, self.poller, self.scratch)
        self.drained = 0

    def watch(self) -> None:
        """Read what comes into `received` until the end, which `ending` says."""
        self.received = bytearray()
        self.ending: int | str | None = None
        self.stream.watch(self._on_readable, self._on_drained)

    def _on_readable(self) -> None:
        try:
            size = self.stream.receive()
        except TlsFailed as error:
            self.ending = str(error)
            self.stream.close()
            return
        if size > 0:
            self.received += self.scratch.plain_view[:size]
        elif size != NOTHING_YET:
            self.ending = size
            self.stream.pause()

    def _on_drained(self) -> None:
        self.drained += 1

    def turn(self) -> None:
        """Wait for readiness and handle it."""
        assert self.poller._epoll.poll(10), "nothing happens"
        self.poller._dispatch()
        self.loop.run()

    def shake_hands(self, *, client_context: ssl.SSLContext | None = None) -> TlsEnd:
        """Serve TLS on the stream and return the client's end of it."""
        context = client_context or ssl.create_default_context(cadata=upstream_authority().certificate_pem().decode())
        ends: list[TlsEnd | Exception] = []

        def connect() -> None:
            try:
                ends.append(TlsEnd(self.far, context, server_name=HOST))
            except Exception as error:
                ends.append(error)

        connecting = threading.Thread(target=connect)
        connecting.start()
        self.stream.start_tls(server_context(), server_side=True)
        self.near.setblocking(True)
        self.near.settimeout(10)
        while not self.stream.handshake():
            assert self.stream.receive_handshake() > 0
        self.near.setblocking(False)
        connecting.join()
        [end] = ends
        if isinstance(end, Exception):
            raise end
        return end

    def close(self) -> None:
        self.stream.abort()
        self.loop.run()
        if not self._shares:
            self.poller.close()
        self.far.close()
