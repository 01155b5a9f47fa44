"""
One exchange over HTTP/1.1 as it passes: where its messages begin and end, and what the observer is told of them.

A core beside `relay.py`, which moves the bytes: what is fed here is about to be forwarded as it came.
"""

from collections.abc import Callable

from services.mitm.observation import Abort, Observation, ObserverParts
from services.mitm.socket_observation import SocketObservation, observe_socket
from services.wire.event_chunk import event_in_chunk
from services.wire.http1 import (
    Body,
    ChunkedBody,
    HttpInvalid,
    NoBody,
    RequestHead,
    ResponseHead,
    UntilCloseBody,
    body_of,
    read_response_head,
)
from services.wire.usual_head import usual_response_head

SWITCHING_PROTOCOLS = 101
_NO_BODY = NoBody()
_NO_EVENTS = (lambda _: None), (lambda _: None)
# What their answer is like depends on them, and not on its head alone (RFC 9110 §§9.3.2, 9.3.6).
_METHODS_OF_OTHER_ANSWERS = frozenset(("HEAD", "CONNECT"))


class Exchange:
    """
    A request with its response; empty until `begin`, and again from `clear` on, for the next one.

    Attributes:
        request, request_body: The request and where it stands.
        response: Its final response, or the one that switches protocols; None until its head is whole.
        response_body: Where that stands.
        response_ahead: The beginning of a response head, kept until its end comes.
        has_begun: Some of the final response has gone out: the client can be told nothing else any more.
        awaits_event: What comes next may be an event of the response, at the start of a chunk.
        held: What is to be sent as soon as there is an upstream connection.
        replay: What may be sent once more if the connection turns out to be dead.
    """

    __slots__ = (
        "_observation",
        "_socket",
        "awaits_event",
        "has_begun",
        "held",
        "replay",
        "request",
        "request_body",
        "response",
        "response_ahead",
        "response_body",
    )

    def __init__(self) -> None:
        self._socket: SocketObservation | None = None
        self.response_ahead = bytearray()
        self.awaits_event = False
        self.held = b""
        self.clear()

    def clear(self) -> None:
        """The response has ended: nothing is left of the exchange."""
        self._observation: Observation | None = None
        self.request: RequestHead | None = None
        self.request_body: Body = _NO_BODY
        self.response: ResponseHead | None = None
        self.response_body: Body = _NO_BODY
        self.has_begun = False
        self.replay = b""

    def begin(
        self, request: RequestHead, observation: Observation, data: bytearray, view: memoryview, start: int, size: int
    ) -> int:
        """Begin with a request, and with what has come of its body; see `follow_request`."""
        self.request = request
        self._observation = observation
        length = request.length
        end = start + length
        if length and end <= size:
            # Nearly every request lies in one read as a whole: nothing of it has to be followed.
            observation.bytes_up = length
            if observation.reads_request:
                observation.request_content(bytes(view[start:end]))
                observation.request_ended()
            return end
        self.request_body = body_of(request)
        return self.follow_request(data, view, start, size)

    def follow_request(self, data: bytearray, view: memoryview, start: int, size: int) -> int:
        """
        Follow the request's body through `data[start:size]`; return where it ends.

        Raises:
            HttpInvalid: It is malformed.
        """
        observation = self._observation
        assert observation is not None
        content: list[tuple[int, int]] = []
        end = self.request_body.feed(data, start, size, content)
        for first, last in content:
            observation.bytes_up += last - first
            if observation.reads_request:
                observation.request_content(bytes(view[first:last]))
        if self.request_body.done:
            observation.request_ended()
        return end

    def begin_response(self, data: bytearray, view: memoryview, size: int, bytes_max: int, now: float) -> int:
        """
        Read heads at the start of `data[:size]`, and with the final one begin with what has come of its body.

        Returns:
            Where that ends which may be forwarded. Without a `response` that is the last whole head that was an interim
            one (1xx), and the rest is in `response_ahead`; with one that switches protocols it is its head.

        Raises:
            HttpInvalid: A head is malformed, or longer than `bytes_max`; or the body is.
        """
        request, observation = self.request, self._observation
        assert request is not None and observation is not None
        usual = None if request.method in _METHODS_OF_OTHER_ANSWERS else usual_response_head(data, size, bytes_max)
        if usual is None:
            start = self._read_heads(data, view, size, bytes_max, request.method)
            if self.response is None:
                return start
            if self.response.status == SWITCHING_PROTOCOLS:
                self.response_body = UntilCloseBody()
                return start
            response = self.response
        else:
            response, start = usual
            self.response = response
        observation.response_head(response, now)
        length = response.length
        end = start + length
        if length and end <= size:
            if observation.reads_response:
                observation.last_content(bytes(view[start:end]), now)
            else:
                observation.bytes_down = length
                observation.ended(now)
            return end
        self.response_body = body_of(response)
        return self.follow_response(data, view, start, size, now)

    def head_continued(self, data: memoryview, bytes_max: int) -> bytearray | None:
        """
        Take what comes behind `response_ahead`.

        Returns:
            All of it, for `begin_response`; None as long as there is nothing more to be read in it.
        """
        ahead = self.response_ahead
        looked = max(0, len(ahead) - 3)
        ahead += data
        if ahead.find(b"\r\n\r\n", looked) < 0 and len(ahead) <= bytes_max:
            return None
        self.response_ahead = bytearray()
        return ahead

    def _read_heads(self, data: bytearray, view: memoryview, size: int, bytes_max: int, request_method: str) -> int:
        """Read heads, interim ones included, until `response` is set; return where the last whole one of them ends."""
        start = 0
        while True:
            end = data.find(b"\r\n\r\n", start, size)
            if (end if end >= 0 else size) - start > bytes_max:
                raise HttpInvalid(f"response head exceeds {bytes_max} bytes")
            if end < 0:
                self.response_ahead = bytearray(view[start:size])
                return start
            end += 4
            response = read_response_head(bytes(view[start:end]), request_method=request_method)
            if response.status >= 200 or response.status == SWITCHING_PROTOCOLS:
                self.response = response
                return end
            start = end

    def follow_response(self, data: bytearray, view: memoryview, start: int, size: int, now: float) -> int:
        """Follow the response's body; see `follow_request`."""
        observation = self._observation
        assert observation is not None
        content: list[tuple[int, int]] = []
        body = self.response_body
        end = body.feed(data, start, size, content)
        if content and observation.reads_response:
            read = b"".join([view[first:last] for first, last in content])
            if body.done:
                observation.last_content(read, now)
                return end
            observation.response_content(read)
        else:
            for first, last in content:
                observation.bytes_down += last - first
        if body.done:
            observation.ended(now)
        elif type(body) is ChunkedBody:
            self.awaits_event = body.is_between_chunks and observation.awaits_event
        return end

    def chunk_follower(self) -> Callable[[bytes], bool] | None:
        """
        Return what follows a chunk that comes alone, as an event mostly does; None if there are no chunks to be read.

        It is given a piece. If that is one chunk of the response, it does what `follow_response` does and returns True;
        otherwise it does nothing and returns False.
        """
        body, observation = self.response_body, self._observation
        if type(body) is not ChunkedBody or observation is None or not observation.reads_response:
            return None
        only_chunk, response_content = body.only_chunk, observation.response_content
        read_event, journal = observation.event_reading() or _NO_EVENTS

        def follow(piece: bytes) -> bool:
            if self.awaits_event and (found := event_in_chunk(piece)) is not None:
                event, content_bytes = found
                observation.bytes_down += content_bytes
                try:
                    if (members := read_event(event)) is not None:
                        journal(members)
                except Exception as error:
                    observation.failed(error)
                    self.awaits_event = False
                return True
            start = only_chunk(piece)
            if not start:
                return False
            response_content(piece[start:-2])
            self.awaits_event = observation.awaits_event
            return True

        return follow

    # -- another protocol (RFC 9110 §15.2.2) -------------------------------

    def upgrade(self, now: float, parts: ObserverParts) -> None:
        """The response has switched protocols: from here on bytes are told as they come."""
        assert self._observation is not None and self.response is not None
        self._socket = observe_socket(self._observation, self.response, now, parts)
        if self._socket is not None:
            self._observation = None

    def upgraded_up(self, data: memoryview, now: float) -> None:
        """The next bytes of the client, in the other protocol."""
        if self._socket is not None:
            self._socket.from_client(data, now)

    def upgraded_down(self, data: memoryview, now: float) -> None:
        """The next bytes of upstream, in the other protocol."""
        if self._socket is not None:
            self._socket.from_server(data, now)

    # -- how it ends -------------------------------------------------------

    def ended(self, now: float) -> None:
        """The response ended with its connection, as it should."""
        assert self._observation is not None
        self._observation.ended(now)
        self._observation = None

    def broken(self, aborted_by: Abort | None, reason: str, now: float) -> None:
        """What is under way broke off, if anything is; `aborted_by` None means that it ended as such things end."""
        if self._observation is not None:
            self._observation.broken(aborted_by, reason, now)
            self._observation = None
        if self._socket is not None:
            self._socket.broken(aborted_by, reason, now)
            self._socket = None

    def refused(self, status: int, error_type: str, reason: str, now: float) -> None:
        """We answer in upstream's place."""
        if self._observation is not None:
            self._observation.refused(status, error_type, reason, now)
            self._observation = None
