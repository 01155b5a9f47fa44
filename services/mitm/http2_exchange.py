"""
One request with its response over HTTP/2: a stream of the client's and, once it is open, one of upstream's.

It is told what passes on either stream, observes it, and lets it flow to the other. As over HTTP/1.1: counts are
journaled before the bytes that carry them are sent, and what upstream did not finish is not finished here, a response
that breaks off resets the client's stream.
"""

from typing import Protocol

from services.mitm.http2_flow import Flow, Side
from services.mitm.observation import Abort, Observation
from services.mitm.refusal import refusal_body
from services.mitm.wiring import Wiring
from services.wire.http2_parts import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    Data,
    Head,
    HeadKind,
    Reset,
    code_name,
    request_head_of,
    response_head_of,
    trailer_of,
)


class ExchangeOwner(Protocol):
    """The connection that an exchange is on."""

    def exchange_over(self, exchange: "Exchange") -> None:
        """Nothing of it is left to be sent."""


class Exchange:
    """
    Lives until both directions are over.

    Attributes:
        head: The request's.
        deadline: When `expire` is to be called, monotonic seconds.
    """

    __slots__ = (
        "_begun",
        "_host",
        "_is_over",
        "_observation",
        "_owner",
        "_request",
        "_request_ended",
        "_response",
        "_response_ended",
        "_wiring",
        "deadline",
        "head",
    )

    def __init__(
        self, head: Head, host: str, client: Side, observation: Observation, wiring: Wiring, owner: ExchangeOwner
    ) -> None:
        self.head = head
        self._host = host
        self._observation: Observation | None = observation
        self._wiring = wiring
        self._owner = owner
        self._request = Flow(self._moved)
        self._request.source, self._request.source_id = client, head.stream_id
        self._response = Flow(self._moved)
        self._response.target, self._response.target_id = client, head.stream_id
        self._request_ended = head.ended
        self._response_ended = False
        self._begun = False
        self._is_over = False
        limits = wiring.limits
        # The dialer keeps its own times; this is for the case that it does not, or that no stream becomes free.
        self.deadline = wiring.poller.now + 2 * limits.connect_timeout_s + limits.handshake_timeout_s + 1
        if head.ended:
            observation.request_ended()

    def __repr__(self) -> str:
        return f"<Exchange on stream {self.head.stream_id}: request {self._request!r}, response {self._response!r}>"

    @property
    def is_over(self) -> bool:
        """Nothing of it is left to be sent."""
        return self._is_over

    @property
    def has_begun(self) -> bool:
        """The client has a part of the response, or will have: an error can no more be told."""
        return self._begun

    @property
    def upstream_id(self) -> int | None:
        """The stream at upstream, when there is one."""
        return self._request.target_id

    def open(self, upstream: Side) -> bool:
        """Send the request's head; False while upstream takes no more streams."""
        stream_id = upstream.end.open_stream(self.head.fields, ended=self.head.ended)
        if stream_id is None:
            return False
        self._request.target, self._request.target_id = upstream, stream_id
        self._response.source, self._response.source_id = upstream, stream_id
        if self.head.ended:
            self._request.stop()
        self._request.wake()
        self._wait_on()
        return True

    def wake(self) -> None:
        """There may be room on either side."""
        self._request.wake()
        self._response.wake()

    # -- what the client sends ---------------------------------------------

    def request_data(self, part: Data) -> None:
        """A piece of the request's content."""
        observation = self._observation
        if observation is not None:
            observation.bytes_up += len(part.content)
            if observation.reads_request:
                observation.request_content(part.content)
        self._request_moved(part)

    def request_trailer(self, part: Head) -> None:
        """The fields at the end of the request."""
        self._request_moved(part)

    def _request_moved(self, part: Data | Head) -> None:
        if part.ended:
            self._request_ended = True
            if self._observation is not None:
                self._observation.request_ended()
        self._wait_on()
        self._request.push(part)

    def client_reset(self, code: int) -> None:
        """The client has broken the exchange off."""
        self._break(Abort.CLIENT, f"the client reset the stream: {code_name(code)}")
        self.give_up(code)

    # -- what upstream sends -----------------------------------------------

    def response_head(self, part: Head) -> None:
        """
        A head of the response, or the fields at its end.

        Raises:
            Http2Invalid: It cannot be read.
        """
        if part.kind is HeadKind.RESPONSE:
            response = response_head_of(part)
            if self._observation is not None:
                self._observation.response_head(response, self._wiring.poller.now)
        elif part.kind is HeadKind.TRAILER and self._observation is not None:
            self._observation.response_trailer(trailer_of(part))
        # Interim heads are no beginning: an error can still be told behind them.
        self._begun = self._begun or part.kind is not HeadKind.INTERIM
        self._response_moved(part)

    def response_data(self, part: Data) -> None:
        """A piece of the response's content; its counts are journaled before it can leave."""
        observation = self._observation
        if observation is not None:
            if observation.reads_response and part.content:
                observation.response_content(part.content)
            else:
                observation.bytes_down += len(part.content)
        self._response_moved(part)

    def _response_moved(self, part: Data | Head) -> None:
        if part.ended:
            self._response_ended = True
            if self._observation is not None:
                self._observation.ended(self._wiring.poller.now)
                self._observation = None
        self._wait_on()
        self._response.push(part)

    def upstream_reset(self, code: int) -> None:
        """Upstream has broken the exchange off, or wants no more of a request that it has answered."""
        if not self._response_ended:
            self._break(Abort.UPSTREAM, f"upstream reset the stream: {code_name(code)}")
        self._end(code)

    def upstream_gone(self, reason: str, error_type: str) -> None:
        """The connection to upstream is over."""
        if self._response_ended:
            self._end(NO_ERROR)
        elif not self._begun:
            self.refuse(502, error_type, reason)
        else:
            self._break(Abort.UPSTREAM, reason)
            self._end(INTERNAL_ERROR)

    def unprocessed(self, code: int) -> None:
        """Upstream has gone away without having looked at the request: the client may send it again."""
        self._break(Abort.UPSTREAM, "upstream went away before it looked at the request")
        self._end(code)

    # -- our own words -----------------------------------------------------

    def refuse(self, status: int, error_type: str, reason: str) -> None:
        """Answer in upstream's place, in the error shape that provider SDKs print; not after a response's head."""
        now = self._wiring.poller.now
        self._wiring.logs.warning("exchange.refused", host=self._host, status=status, reason=reason)
        if self._observation is not None:
            self._observation.refused(status, error_type, reason, now)
            self._observation = None
        self._request.stop()
        self._reset_upstream(CANCEL)
        self._response.source = None  # our own words are nobody's credit
        self._begun = self._response_ended = True
        self.deadline = now + self._wiring.limits.idle_timeout_s
        body = refusal_body(status, error_type, reason)
        fields = [
            (b":status", str(status).encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-wiremeter-error", error_type.encode()),
        ]
        is_head = request_head_of(self.head).method == "HEAD"
        stream_id = self.head.stream_id
        self._response.push(Head(stream_id=stream_id, kind=HeadKind.RESPONSE, fields=fields, ended=is_head))
        if not is_head:
            self._response.push(Data(stream_id=stream_id, content=body, ended=True))
        if not self._request_ended:
            # RFC 9113 §8.1: the rest of the request is not wanted.
            self._response.push(Reset(stream_id=stream_id, code=NO_ERROR))

    def expire(self) -> None:
        """What was awaited has not come until the deadline."""
        limits = self._wiring.limits
        still = f"nothing moved for {limits.idle_timeout_s:g} s"
        if self.upstream_id is None and not self._begun:
            self.refuse(504, "upstream_timeout", "no connection in time that takes the request")
        elif self._begun:
            # What waits for the client is what it does not read.
            self._break(Abort.CLIENT if self._response.is_waiting else Abort.UPSTREAM, still)
            self.give_up(CANCEL)
        elif self._request.is_waiting:
            self.refuse(504, "upstream_timeout", f"upstream does not take the request: {still}")
        elif self._request_ended:
            self.refuse(504, "upstream_timeout", f"no response within {limits.response_timeout_s:g} s")
        else:
            self.refuse(408, "request_timeout", still)

    def break_off(self, aborted_by: Abort, reason: str) -> None:
        """The client's connection is over, or ours to end: nothing can be told any more."""
        self._break(aborted_by, reason)
        self.give_up(CANCEL)

    def give_up(self, code: int) -> None:
        """Reset what is left of both streams, now."""
        self._request.stop()
        self._response.stop()
        self._reset_upstream(code)
        client = self._response.target
        assert client is not None
        client.end.reset(self.head.stream_id, code)
        self._moved()

    # -- how it goes on ----------------------------------------------------

    def _wait_on(self) -> None:
        """Something has moved: set the time for what comes next."""
        limits = self._wiring.limits
        waits_for_head = self._request_ended and not self._begun and not self._request.is_waiting
        self.deadline = self._wiring.poller.now + (
            limits.response_timeout_s if waits_for_head else limits.idle_timeout_s
        )

    def _moved(self) -> None:
        """A flow has sent something."""
        self._wait_on()
        if not self._is_over and self._request.is_over and self._response.is_over:
            self._is_over = True
            self._owner.exchange_over(self)

    def _break(self, aborted_by: Abort, reason: str) -> None:
        if self._observation is not None:
            self._observation.broken(aborted_by, reason, self._wiring.poller.now)
            self._observation = None

    def _end(self, code: int) -> None:
        """Upstream takes and sends nothing more: reset the client's stream behind what has come for it."""
        self._response_ended = True
        self._response.push(Reset(stream_id=self.head.stream_id, code=code))
        self._request.stop()

    def _reset_upstream(self, code: int) -> None:
        if self._request.target is not None and self._request.target_id is not None:
            self._request.target.end.reset(self._request.target_id, code)
