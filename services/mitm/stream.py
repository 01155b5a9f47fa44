"""
One non-blocking socket, in clear or under TLS, watched by the poller.

TLS is an `ssl.SSLObject` between two memory BIOs that we own: asyncio's TLS transports send no alerts, hide the reason
when a peer refuses our certificate, and cost more. Reading fills one buffer that all streams of the process share: what
is not used before the next `receive` has to be copied. Writing sends what the socket takes, in a wake-up at the end of
it (convoy.py), and keeps the rest; `backlog` says how much that is, `on_drained` is called when it is gone.
"""

import socket
import ssl
import struct
from collections.abc import Callable
from ssl import MemoryBIO, SSLWantReadError
from typing import Any, TypeAlias

from services.mitm.convoy import PIECE_BYTES_MAX, PIECES_MAX
from services.mitm.poller import BROKEN, READ, WRITE, Poller

# Ciphertext taken from a socket at once: several full TLS records, small enough for the processor's cache.
_CIPHER_BYTES = 64 * 1024
# Plaintext is shorter than its ciphertext; one record's worth is left for what OpenSSL held back from the read before.
PLAIN_BYTES = _CIPHER_BYTES + 20 * 1024
# One write to OpenSSL: bounds what a memory BIO grows to and never gives back.
_WRITE_BYTES = 64 * 1024
# A side that is this far behind stops the other one's reading, until it has caught up.
BACKLOG_BYTES_MAX = 256 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger, socket(7)

TlsContext: TypeAlias = ssl.SSLContext  # by this name for those who only pass one on

# What `receive` returns beside a number of bytes.
NOTHING_YET = 0
ENDED = -1  # the peer said that it will send no more: close_notify under TLS, FIN in clear
BROKEN_OFF = -2  # the connection ended without that


class TlsFailed(Exception):
    """The TLS layer refuses to go on; the message is OpenSSL's reason."""


def _ignore() -> None:
    return


class Scratch:
    """The buffers that the streams of one process read into."""

    __slots__ = ("cipher", "plain", "plain_view")

    def __init__(self) -> None:
        self.cipher = memoryview(bytearray(_CIPHER_BYTES))
        self.plain = bytearray(PLAIN_BYTES)
        self.plain_view = memoryview(self.plain)


class Stream:
    """
    A connection's socket with its TLS state; see the module.

    Attributes:
        on_readable, on_drained, on_failed: What `watch` was told, of which nothing is called before. The last is for a
            handler of ours that raised: whoever owns the stream ends what it was for.
    """

    on_readable: Callable[[], None]
    on_drained: Callable[[], None]
    on_failed: Callable[[], None]

    __slots__ = (
        "_cipher",
        "_convoy",
        "_events",
        "_incoming",
        "_outgoing",
        "_plain_view",
        "_poller",
        "_read",
        "_recv_into",
        "_scratch",
        "_send",
        "_shut",
        "_tls",
        "_unsent",
        "_watched",
        "_write",
        "closed",
        "descriptor",
        "ended",
        "on_closed",
        "on_drained",
        "on_failed",
        "on_readable",
        "sent_failed",
        "socket",
    )

    def __init__(self, sock: socket.SocketType, poller: Poller, scratch: Scratch) -> None:
        self.socket = sock
        self.descriptor = sock.fileno()
        self._poller = poller
        self._convoy = poller.convoy
        self._scratch = scratch
        self._cipher = scratch.cipher
        self._plain_view = scratch.plain_view
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._tls: Any = None
        self._unsent = bytearray()  # one object for life: `Passage` holds it too
        self._events = READ
        self._watched = False
        self.closed = False
        self.ended = False
        # A send failed: the reason comes out of the next receive, which callers wait for anyway.
        self.sent_failed = False
        self._shut = False
        self.on_closed: Callable[[], None] = _ignore

    # -- TLS ---------------------------------------------------------------

    def start_tls(
        self, context: TlsContext, *, server_side: bool, server_name: str | None = None, received: bytes = b""
    ) -> None:
        """Put a TLS layer on the connection, which begins with what was `received` before; `handshake` runs it."""
        self._incoming = incoming = MemoryBIO()
        self._outgoing = outgoing = MemoryBIO()
        # What an SSLObject wraps is used in its stead: its methods only pass the call on, and some calls are made for
        # every piece of every stream. With a buffer, read fills it and returns a number.
        self._tls = inner = context._wrap_bio(  # type: ignore[attr-defined]  # typeshed has no type of it
            incoming, outgoing, server_side=server_side, server_hostname=server_name
        )
        self._read: Callable[[int, memoryview], int] = inner.read
        self._write: Callable[[memoryview | bytes], int] = inner.write
        incoming.write(received)

    def handshake(self) -> bool:
        """
        Go on with the handshake with what has been fed, and send what it says; True when it is over.

        Raises:
            TlsFailed: The handshake failed; our alert has been sent.
        """
        try:
            self._tls.do_handshake()
            is_over = True
        except SSLWantReadError:
            is_over = False
        except ssl.SSLError as error:
            self._flush_tls()
            raise TlsFailed(reason_of(error)) from error
        if self._outgoing.pending:
            self._send_raw(self._outgoing.read())
        return is_over

    def receive_handshake(self) -> int:
        """Read ciphertext into the TLS layer; return `NOTHING_YET`, a positive number, or `BROKEN_OFF`."""
        try:
            size = self._recv_into(self._cipher)
        except BlockingIOError:
            return NOTHING_YET
        except OSError:
            return BROKEN_OFF
        if size == 0:
            return BROKEN_OFF
        self._incoming.write(self._cipher[:size])
        return size

    @property
    def protocol(self) -> str | None:
        """The application protocol that the handshake agreed on, if any."""
        name: str | None = None if self._tls is None else self._tls.selected_alpn_protocol()
        return name

    # -- reading -----------------------------------------------------------

    def receive(self) -> int:
        """
        Read what is there into the shared buffer, `scratch.plain[:n]`.

        Returns:
            The number of bytes, or `NOTHING_YET`, `ENDED`, `BROKEN_OFF`. With bytes, `ended` may be true already.

        Raises:
            TlsFailed: A record that is no good, or the peer's alert; ours has been sent.
        """
        if self._tls is None:
            return self._receive_clear()
        try:
            size = self._recv_into(self._cipher)
        except BlockingIOError:
            return NOTHING_YET
        except OSError:
            return BROKEN_OFF
        if not size:
            return ENDED if self.ended else BROKEN_OFF
        incoming = self._incoming
        incoming.write(self._cipher[:size])
        try:
            size = self._read(PLAIN_BYTES, self._plain_view)
        except ssl.SSLError as error:
            return self.read_stopped(0, error)
        # Nearly always that was all. (An answer to a key update goes out with what is sent next, RFC 8446 §4.6.3.)
        return size if size and not incoming.pending else self.read_on(size)

    def receive_decrypted(self) -> int:
        """Decrypt what the TLS layer has; see `receive`."""
        if not self._incoming.pending:
            return NOTHING_YET  # as OpenSSL would say by an exception
        try:
            size = self._read(PLAIN_BYTES, self._plain_view)
        except ssl.SSLError as error:
            return self.read_stopped(0, error)
        return size if size and not self._incoming.pending else self.read_on(size)

    def read_on(self, total: int) -> int:
        """Go on behind a read of `total` bytes, which is 0 at the peer's close_notify."""
        self.ended = self.ended or not total
        try:
            # Asking again when nothing is left would cost an exception each time.
            while self._incoming.pending and not self.ended:
                size = self._read(PLAIN_BYTES, self._plain_view[total:])
                self.ended = not size
                total += size
        except ssl.SSLError as error:
            return self.read_stopped(total, error)
        if self._outgoing.pending:
            self._flush_tls()
        return total or (ENDED if self.ended else NOTHING_YET)

    def read_stopped(self, total: int, error: ssl.SSLError) -> int:
        """Go on where `total` bytes were read, then OpenSSL gave `error`: it wants more, is at the end, or fails."""
        if isinstance(error, ssl.SSLZeroReturnError):
            self.ended = True  # close_notify, after we have sent ours
        if self._outgoing.pending:
            self._flush_tls()
        if not isinstance(error, ssl.SSLZeroReturnError | ssl.SSLWantReadError):
            if not total:
                raise TlsFailed(reason_of(error)) from error
            # Data before a broken record was authentic: hand it out. Nothing more may come, so that the next call,
            # which says why, would not be made: a socket shut for reading is readable.
            self._shut_socket(socket.SHUT_RD)
        return total or (ENDED if self.ended else NOTHING_YET)

    def _receive_clear(self) -> int:
        try:
            size = self._recv_into(self._plain_view)
        except BlockingIOError:
            return NOTHING_YET
        except OSError:
            return BROKEN_OFF
        if size == 0:
            if self.sent_failed:
                return BROKEN_OFF  # a reset is told once, and the send has heard it
            self.ended = True
        return size or ENDED

    def reading(self) -> tuple[Callable[[int], bytes], ssl.MemoryBIO, Callable[[int], bytes], Scratch]:
        """Return what `receive` is made of under TLS: take ciphertext, its BIO, decrypt; and the buffers."""
        return self.socket.recv, self._incoming, self._tls.read, self._scratch

    # -- writing -----------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Bytes that wait for the peer to read."""
        return len(self._unsent)

    def send(self, data: memoryview | bytes) -> int:
        """Send `data`, or keep what the socket does not take now; return the `backlog`."""
        if self._tls is not None:
            try:
                if len(data) > PIECE_BYTES_MAX:
                    return self._send_in_parts(data)
                self._write(data)
            except ssl.SSLError:
                self.sent_failed = True  # the TLS layer has failed before, in reading
                return len(self._unsent)
            data = self._outgoing.read()
            convoy = self._convoy
            if convoy.is_open and len(convoy.waiting) < PIECES_MAX:
                unsent = self._unsent
                convoy.join((self._send, unsent, data, self))
                return len(unsent)
        return self._send_raw(data)

    def _send_in_parts(self, data: memoryview | bytes) -> int:
        for start in range(0, len(data), _WRITE_BYTES):
            self._write(data[start : start + _WRITE_BYTES])
            self._flush_tls()
        return len(self._unsent)

    def _send_raw(self, data: memoryview | bytes) -> int:
        convoy = self._convoy
        if convoy.is_open:
            if len(data) <= PIECE_BYTES_MAX and type(data) is bytes and len(convoy.waiting) < PIECES_MAX:
                convoy.join((self._send, self._unsent, data, self))
                return len(self._unsent)
            convoy.leave()
        size = 0
        if not self._unsent:
            try:
                size = self._send(data)
            except BlockingIOError:
                pass
            except OSError:
                self.sent_failed = True
                return 0
            if size == len(data):
                return 0
        return self.keep(data[size:])

    def keep(self, data: memoryview | bytes) -> int:
        """Keep what the socket did not take; return the `backlog`."""
        if self.closed:  # meanwhile: nobody shall take what was sent for all
            self._reset_when_closed()
        elif not self._unsent:
            self._wait_for(self._events | WRITE)
        self._unsent += data  # also then: what waits behind it must not be sent without it
        return len(self._unsent)

    def _flush_tls(self) -> None:
        data = self._outgoing.read()
        if data:
            self._send_raw(data)

    def _flush(self) -> None:
        try:
            size = self._send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.sent_failed = True
            size = len(self._unsent)
        del self._unsent[:size]
        if not self._unsent:
            self._wait_for(self._events & ~WRITE)
            if self._shut:
                self._shut_socket(socket.SHUT_WR)
            self.on_drained()

    def writing(
        self,
    ) -> tuple[Callable[[bytes], int], Callable[[memoryview | bytes], int], Callable[[], bytes], bytearray]:
        """Return what `send` is made of under TLS: send ciphertext, encrypt, take ciphertext, and what waits."""
        return self._send, self._write, self._outgoing.read, self._unsent

    # -- readiness ---------------------------------------------------------

    def watch(
        self,
        on_readable: Callable[[], None],
        on_drained: Callable[[], None] = _ignore,
        on_failed: Callable[[], None] = _ignore,
    ) -> None:
        """Call these from now on; begins to watch the socket."""
        self.on_readable = on_readable
        self.on_drained = on_drained
        self.on_failed = on_failed
        if self._watched:
            self._poller.read_by(self.descriptor, on_readable)
        else:
            self._watched = True
            self._poller.watch(self.descriptor, self._on_events, self._events, fail=self._fail, on_readable=on_readable)

    def rest(self) -> None:
        """Nobody uses the stream for now, and nothing may come: whatever does closes it."""
        if self._watched and self._events & READ:
            self.on_readable = on_readable = self._on_readable_at_rest
            self.on_drained = self.on_failed = _ignore
            self._poller.read_by(self.descriptor, on_readable)
        else:
            self.watch(self._on_readable_at_rest)
            self.resume()

    def _on_readable_at_rest(self) -> None:
        try:
            # A session ticket or a key update is no data: the TLS layer takes it and nothing comes out.
            if self.receive() == NOTHING_YET:
                return
        except TlsFailed:
            pass
        self.close()

    def pause(self) -> None:
        """Read no more for now: the kernel's buffers fill and the peer stops sending."""
        if self._events & READ:
            self._wait_for(self._events & ~READ)

    def resume(self) -> None:
        """Read again."""
        if not self._events & READ:
            self._wait_for(self._events | READ)

    def _wait_for(self, events: int) -> None:
        self._events = events
        if self._watched and not self.closed:
            self._poller.change(self.descriptor, events)

    def _on_events(self, events: int) -> None:
        if events & WRITE and self._unsent:
            self._flush()
        # A broken connection is reported to the reader even while it is paused: epoll would report it for ever.
        if events & (READ | BROKEN) and not self.closed:
            self.on_readable()

    def _fail(self) -> None:
        self.on_failed()
        self.abort()

    # -- the end -----------------------------------------------------------

    def shut_writing(self) -> None:
        """Say that we send no more, behind what still waits to be sent: close_notify and FIN."""
        if not self._shut:
            self._shut = True
            self._send_close_notify()
            self._send_fin()

    def _send_close_notify(self) -> None:
        tls = self._tls
        if tls is not None:
            try:
                tls.shutdown()
            except ssl.SSLError:
                pass  # it wants the peer's close_notify, which we do not wait for
            if self._outgoing.pending:
                self._send_raw(self._outgoing.read())

    def _send_fin(self) -> None:
        if self._convoy.is_open:
            self._convoy.leave()
        if not self._unsent:
            self._shut_socket(socket.SHUT_WR)

    def _shut_socket(self, how: int) -> None:
        try:
            self.socket.shutdown(how)
        except OSError:
            pass  # the peer has reset the connection

    def close(self) -> None:
        """Close with close_notify and FIN, or with a reset when something could not be sent."""
        if self.closed:
            return
        if not (self.sent_failed or self._shut):
            self._shut = True
            self._send_close_notify()
            # With all read, closing the socket sends the FIN too.
            if not self.ended or self._unsent:
                self._send_fin()
        if self._unsent and not self.sent_failed:
            self.abort()
        else:
            self._leave()

    def abort(self) -> None:
        """Close with a reset, so that the peer cannot take a broken message for a whole one."""
        if not self.closed:
            if self._convoy.is_open:
                self._convoy.leave()
            self._reset_when_closed()
            self._leave()

    def _reset_when_closed(self) -> None:
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            pass

    def _leave(self) -> None:
        self.closed = True
        self.on_closed()
        # Who is called back holds this stream, too: no circle shall wait for the collector.
        self.on_readable = self.on_drained = self.on_closed = self.on_failed = _ignore
        self._poller.close_socket(self.socket)


def reason_of(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason in words: `CERTIFICATE_VERIFY_FAILED: certificate has expired`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if error.reason == "WRONG_VERSION_NUMBER":
        return "wrong version number: what came is no TLS"
    return (error.reason or str(error)).lower().replace("_", " ")
