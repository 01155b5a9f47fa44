"""
One direction of one HTTP/2 stream on its way through, and the end of a connection that several of them lead to.

Content waits in its flow until the target has room for it, and is given back as credit to the source when it has gone
on: back-pressure is each stream's own. Flows that can send take turns, a piece each, so that none of them waits for
another's large body.
"""

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from services.mitm.stream import BACKLOG_BYTES_MAX, Stream
from services.wire.http2 import Http2End
from services.wire.http2_parts import Data, Head, Reset

# Between two sends to the socket: enough for a few full TLS records.
_FLUSH_BYTES = 64 * 1024
# Content stops at BACKLOG_BYTES_MAX: what goes beyond it are answers to pings and the like, which a peer that does not
# read must not go on asking for.
_ANSWERS_BYTES_MAX = 2 * BACKLOG_BYTES_MAX

Waiting: TypeAlias = Head | Data | Reset


class Side:
    """One end of a relayed connection: the protocol, its socket, and the flows that have something to send there."""

    __slots__ = ("_ready", "end", "stream")

    def __init__(self, end: Http2End, stream: Stream) -> None:
        self.end = end
        self.stream = stream
        self._ready: deque[Flow] = deque()

    def want(self, flow: "Flow") -> None:
        """Let a flow take its turn."""
        if not flow.is_ready:
            flow.is_ready = True
            self._ready.append(flow)

    def pump(self) -> None:
        """Send what there is room for, a piece of each flow in turn, while the socket takes it."""
        unflushed = 0
        while self._ready and self.stream.backlog < BACKLOG_BYTES_MAX:
            flow = self._ready.popleft()
            flow.is_ready = False
            unflushed += flow.step()
            if unflushed >= _FLUSH_BYTES:
                self.flush()
                unflushed = 0

    def flush(self) -> None:
        """Hand what the protocol has to say to the socket."""
        data = self.end.output()
        if data:
            self.stream.send(data)
        if self.stream.backlog > _ANSWERS_BYTES_MAX:
            self.stream.pause()


class Flow:
    """
    What has come on a stream of `source` and waits for a stream of `target`.

    `target_id` is None until that stream is open. `on_moved` is called after each step, with the flow's state changed.
    """

    __slots__ = ("_ended", "_offset", "_waiting", "is_ready", "on_moved", "source", "source_id", "target", "target_id")

    def __init__(self, on_moved: Callable[[], None]) -> None:
        self.source: Side | None = None
        self.source_id = 0
        self.target: Side | None = None
        self.target_id: int | None = None
        self.is_ready = False
        self.on_moved = on_moved
        self._waiting: deque[Waiting] = deque()
        self._offset = 0
        self._ended = False

    def __repr__(self) -> str:
        return f"<Flow, {len(self._waiting)} parts waiting{', ended' if self._ended else ''}>"

    @property
    def is_over(self) -> bool:
        """The last part has been sent, or will not be."""
        return self._ended and not self._waiting

    @property
    def is_waiting(self) -> bool:
        """Something has come that the target has not taken."""
        return bool(self._waiting)

    def push(self, part: Waiting) -> None:
        """Take the next part."""
        if self._ended and not isinstance(part, Reset):
            if isinstance(part, Data):
                self._release(len(part.content))
            return
        self._waiting.append(part)
        self.wake()

    def wake(self) -> None:
        """There may be room."""
        if self._waiting and self.target is not None and self.target_id is not None:
            self.target.want(self)

    def stop(self) -> None:
        """Send nothing more; what waits is given up."""
        self._ended = True
        for part in self._waiting:
            if isinstance(part, Data):
                self._release(len(part.content) - self._offset)
                self._offset = 0
        self._waiting.clear()

    def step(self) -> int:
        """Send one part, or a piece of one; return how many bytes of content that were."""
        if not self._waiting:
            return 0
        assert self.target is not None and self.target_id is not None
        part = self._waiting[0]
        if isinstance(part, Data):
            return self._send_piece(part, self.target.end, self.target_id)
        if isinstance(part, Head):
            self.target.end.send_head(self.target_id, part.fields, ended=part.ended)
        else:
            self.target.end.reset(self.target_id, part.code)
        self._sent(isinstance(part, Reset) or part.ended)
        return 0

    def _send_piece(self, part: Data, end: Http2End, stream_id: int) -> int:
        left = len(part.content) - self._offset
        room = end.room(stream_id)
        if left and not room:
            return 0  # woken when the window opens
        piece = part.content[self._offset : self._offset + room]
        is_last = len(piece) == left
        end.send_data(stream_id, piece, ended=part.ended and is_last)
        self._release(len(piece))
        if is_last:
            self._offset = 0
            self._sent(part.ended)
        else:
            self._offset += len(piece)
            self.on_moved()
            self.wake()
        return len(piece)

    def _sent(self, ended: bool) -> None:
        self._waiting.popleft()
        self._ended = self._ended or ended
        self.wake()
        self.on_moved()

    def _release(self, size: int) -> None:
        if self.source is not None and size:
            self.source.end.release(self.source_id, size)
