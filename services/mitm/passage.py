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

from services.mitm.convoy import PIECE_BYTES_MAX
from services.mitm.poller import Poller
from services.mitm.stream import BACKLOG_BYTES_MAX, PLAIN_BYTES, Stream

# Is shown a buffer, a view of it, and the size of the piece that stands there. True if that may be sent as it is;
# False, with nothing done, if it needs another look.
Follow: TypeAlias = Callable[[bytearray, memoryview, int], bool]


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
    recv_into, incoming, decrypt, scratch = source.reading()
    cipher, plain, view = scratch.cipher, scratch.plain, scratch.plain_view
    send, encrypt, encrypted, unsent = sink.writing()
    feed, join = incoming.write, poller.convoy.join

    # Closures, for what they hold is found faster than attributes.

    def receive() -> bool:
        passage.moved_at = poller.now
        try:
            size = recv_into(cipher)
        except OSError:
            size = 0
        if not size:
            otherwise(source.receive)  # which says why
            return False
        feed(cipher[:size])
        return True

    def pass_on() -> None:
        try:
            size = decrypt(PLAIN_BYTES, view)
        except ssl.SSLError as error:
            otherwise(partial(source.read_stopped, 0, error))
            return
        if not size or incoming.pending:
            otherwise(partial(source.read_on, size))
        elif size > PIECE_BYTES_MAX or not follow(plain, view, size):
            # `lambda: size` would do, but makes each look at `size` here one into a cell.
            otherwise(partial(int, size))
        else:
            try:
                encrypt(view[:size])
            except ssl.SSLError:
                sink.sent_failed = True
                return
            join((send, unsent, encrypted(), sink))
            if unsent and len(unsent) > BACKLOG_BYTES_MAX:
                source.pause()

    poller.pass_by(source.descriptor, receive, pass_on)
    return passage
