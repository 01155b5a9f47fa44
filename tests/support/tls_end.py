"""
One end of a TLS connection in the test's own hands: what it sends is exactly that, and how the other end left is seen.

`ssl.SSLSocket` hides what these tests are about: whether a connection ended with close_notify, a bare FIN or a reset,
and which alert came. Blocking, with a time limit on every wait.
"""

import array
import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Iterable

WAIT_S = 10.0
_PIECE_BYTES = 256 * 1024

# How the other end left.
CLOSE_NOTIFY = "close_notify"
FIN = "fin"
RESET = "reset"


def unread_bytes(sock: socket.socket) -> int:
    """Return how many bytes have arrived that nobody has read; never blocks."""
    size = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, size)
    return size[0]


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class TlsEnd:
    """
    A connection after its handshake.

    Attributes:
        ending: How the other end left: `close_notify`, `fin`, `reset`, or OpenSSL's reason; None while it is there.
        peer_certificate: The other end's, as DER.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool = False, server_name: str | None = None
    ) -> None:
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.ending: str | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        self._unread = bytearray()
        self._shake_hands()

    def __enter__(self) -> "TlsEnd":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def peer_certificate(self) -> bytes | None:
        return self.tls.getpeercert(binary_form=True)

    def _shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._take():
                    raise ConnectionError(f"the handshake ended with {self.ending}") from None
            except ssl.SSLError:
                self._flush()
                raise
            else:
                self._flush()
                return

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self.sock.sendall(data)

    def _take(self) -> bool:
        try:
            data = self.sock.recv(_PIECE_BYTES)
        except ConnectionError:
            self.ending = RESET
            return False
        if not data:
            self.ending = FIN
            return False
        self._incoming.write(data)
        return True

    # -- what we say -------------------------------------------------------

    def send(self, *pieces: bytes) -> None:
        """Send each piece as a TLS record of its own, in a segment of its own where the kernel lets it."""
        for piece in pieces:
            if piece:
                self.tls.write(piece)
                self._flush()

    def send_raw(self, data: bytes) -> None:
        """Send bytes below TLS."""
        self.sock.sendall(data)

    def close(self) -> None:
        """Leave as one should: close_notify, FIN."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # it waits for the other's
        try:
            self._flush()
        except ConnectionError:
            pass
        self.sock.close()

    def say_close(self) -> None:
        """Send close_notify and nothing else; go on reading."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self._flush()

    def drop(self) -> None:
        """Leave with a FIN but no close_notify."""
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()

    def reset(self) -> None:
        """Leave with a reset."""
        reset(self.sock)

    # -- what the other end says -------------------------------------------

    def receive(self) -> bytes:
        """Return what has come, waiting for something; b"" when the other end has left."""
        if self._unread:
            data, self._unread = bytes(self._unread), bytearray()
            return data
        while self.ending is None:
            try:
                data = self.tls.read(_PIECE_BYTES)
            except ssl.SSLWantReadError:
                self._take()
            except ssl.SSLZeroReturnError:
                self.ending = CLOSE_NOTIFY
            except ssl.SSLError as error:
                self.ending = (error.reason or str(error)).lower()
            else:
                if data:
                    return data
                self.ending = CLOSE_NOTIFY
        return b""

    def has_more(self) -> bool:
        """Wait for something to read; False when the other end has left instead."""
        self._unread[:0] = self.receive()
        return bool(self._unread)

    def read_until(self, marker: bytes) -> bytes:
        """Read up to and with `marker`; what comes behind it stays."""
        data = bytearray()
        while marker not in data:
            more = self.receive()
            if not more:
                raise AssertionError(f"ended with {self.ending} after {bytes(data)!r:.300}")
            data += more
        end = data.index(marker) + len(marker)
        self._unread = data[end:] + self._unread
        return bytes(data[:end])

    def read_head(self) -> bytes:
        """Read an HTTP head."""
        return self.read_until(b"\r\n\r\n")

    def read(self, size: int) -> bytes:
        """Read exactly so many bytes."""
        data = bytearray()
        while len(data) < size:
            more = self.receive()
            if not more:
                raise AssertionError(f"ended with {self.ending} after {len(data)} of {size} bytes")
            data += more
        self._unread = data[size:] + self._unread
        return bytes(data[:size])

    def read_to_end(self) -> bytes:
        """Read until the other end leaves; `ending` says how."""
        return b"".join(iter(self.receive, b""))

    def wait_gone(self) -> str:
        """Wait until the other end has left, reading on; return how."""
        self.read_to_end()
        assert self.ending is not None
        return self.ending


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut `data` at these positions."""
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]
