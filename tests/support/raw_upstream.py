"""
A TLS server that does what a script says, byte for byte, with a certificate from a test's own authority.

    def script(link: TlsEnd) -> None:
        assert link.read_head().startswith(b"GET ")
        link.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

The script runs once per connection, in a thread of its own; what it raises fails the test when the server closes.
"""

import functools
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from services.mitm.authority import Pair, make_authority, make_leaf, make_leaf_key
from tests.support.authority import load_pair
from tests.support.eventually import eventually
from tests.support.tls_end import WAIT_S, TlsEnd

Script = Callable[[TlsEnd], None]
DOMAIN = "upstream.test"
# A script that waits for the end of its connection may have to wait for the end of the test that keeps it.
_IDLE_S = 60.0


@functools.cache
def upstream_authority() -> Pair:
    """The authority that mitm is told to trust in tests; it may vouch for test names and the providers'."""
    return make_authority([DOMAIN, "anthropic.com", "googleapis.com"], datetime.now(UTC), "test authority")


def server_context(
    host: str = f"*.{DOMAIN}", *, authority: Pair | None = None, age: timedelta | None = None
) -> ssl.SSLContext:
    """Return a context with a fresh certificate for `host`, made `age` ago."""
    leaf = make_leaf(authority or upstream_authority(), make_leaf_key(), host, datetime.now(UTC) - (age or timedelta()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    load_pair(context, leaf)
    return context


@functools.cache
def _usual_context() -> ssl.SSLContext:
    return server_context()


class RawUpstream:
    """
    Listens on 127.0.0.1.

    Attributes:
        accepted: TCP connections so far; `links` those of them whose handshake was completed.
        handshake_failures: What OpenSSL said about the others.
    """

    def __init__(
        self,
        script: Script,
        *,
        context: ssl.SSLContext | None = None,
        in_clear: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self._script = script
        self._context = context or _usual_context()
        self._in_clear = in_clear
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        self.accepted = 0
        self.links: list[TlsEnd] = []
        self.handshake_failures: list[str] = []
        self._problems: list[BaseException] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(WAIT_S)
        with sock:
            try:
                if self._in_clear is not None:
                    self._in_clear(sock)
                    return
                try:
                    link = TlsEnd(sock, self._context, server_side=True)
                    sock.settimeout(_IDLE_S)
                except (OSError, ssl.SSLError) as error:
                    self.handshake_failures.append(str(error))
                    return
                self.links.append(link)
                self._script(link)
            except BaseException as error:
                self._problems.append(error)

    def wait_links(self, count: int) -> None:
        """Wait for so many connections."""
        eventually(f"{count} connections at the upstream", lambda: len(self.links) >= count)

    def close(self) -> None:
        """Stop; raise what a script raised."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a script of the upstream does not end"
        if self._problems:
            raise self._problems[0]


def answering(response: bytes, *, times: int = 1) -> Script:
    """Answer each request, of which only the head is looked at, with the same bytes; then wait for the end."""

    def script(link: TlsEnd) -> None:
        for _ in range(times):
            if not link.has_more():
                return
            link.read_head()
            link.send(response)
        link.wait_gone()

    return script
