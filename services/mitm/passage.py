"""
The short way of a streamed answer through mitm: pieces that come alone, and pass as they are.

Nearly every event of a stream is one TLS record that holds one chunk, and what it costs is the number of steps that the
interpreter takes. So a passage reads it, shows it and encrypts it; what is not so simple is left to `relay.py`, as if
it had come by `Stream.receive`.
"""

import ssl
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from services.mitm.poller import Poller
from services.mitm.stream import BACKLOG_BYTES_MAX, Stream

# Is shown a piece. True if that may be sent as it is; False, with nothing done, if it needs another look.
Follow: TypeAlias = Callable[[bytes], bool]

# No TLS record holds more (RFC 8446 §5.1), and OpenSSL decrypts one at a time. Larger pieces than that do not wait for
# others (convoy.py), so that all that pass here may.
_RECORD_BYTES_MAX = 16 * 1024


class Passage:
    """
    A way from one stream under TLS into another, until it is closed.

    Attributes:
        moved_at: When something came last, by the poller's clock.
    """

    __slots__ = ("_close", "moved_at")

    def __init__(self, now: float, close: Callable[[], None]) -> None:
        self._close = close
        self.moved_at = now

    def close(self) -> None:
        """Nothing passes here any more."""
        close, self._close = self._close, _nothing
        close()
        self.moved_at = float("-inf")


def _nothing() -> None:
    return


NO_PASSAGE = Passage(float("-inf"), _nothing)


def open_passage(
    source: Stream,
    sink: Stream,
    poller: Poller,
    follow: Follow,
    otherwise: Callable[[Callable[[], int]], None],
) -> Passage:
    """
    Let pass what comes from `source` to `sink`, wherever `follow` allows it; pause the source while too much waits.

    Args:
        source, sink: Have both begun TLS.
        otherwise: Is called for what is not simple, with what to call instead of `Stream.receive`.
    """
    passage = Passage(poller.now, partial(poller.pass_no_more, source.descriptor))
    recv, incoming, decrypt, scratch = source.reading()
    view, cipher_bytes = scratch.plain_view, len(scratch.cipher)
    send, encrypt, encrypted, unsent = sink.writing()
    feed, join = incoming.write, poller.convoy.join

    # Closures, for what they hold is found faster than attributes. Pieces are short: bytes of their own take no longer
    # than a view into a buffer, and less is to be said about them.

    def receive() -> bool:
        passage.moved_at = poller.now
        try:
            data = recv(cipher_bytes)
        except OSError:
            data = b""
        if not data:
            otherwise(source.receive)  # which says why
            return False
        feed(data)
        return True

    def pass_on() -> None:
        try:
            piece = decrypt(_RECORD_BYTES_MAX)
        except ssl.SSLError as error:
            otherwise(partial(source.read_stopped, 0, error))
            return
        if piece and not incoming.pending:
            if follow(piece):
                try:
                    encrypt(piece)
                except ssl.SSLError:
                    sink.sent_failed = True
                    return
                join((send, unsent, encrypted(), sink))
                if unsent and len(unsent) > BACKLOG_BYTES_MAX:
                    source.pause()
                return
            go_on: Callable[[int], int] = int
        else:
            go_on = source.read_on
        size = len(piece)
        view[:size] = piece
        otherwise(partial(go_on, size))

    poller.pass_by(source.descriptor, receive, pass_on)
    return passage
