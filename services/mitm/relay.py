"""
One client's HTTP/1.1 exchanges, one after the other: bytes pass on as they came, and are observed on the way.

Forward first, observe second: the observer sees each piece before it leaves (counts are journaled before the bytes that
carry them), but whatever happens to it, the bytes leave. What upstream did not finish is not finished here: a response
that breaks off resets the client's connection. A request that was sent ahead of its turn (pipelined) waits, bounded.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial

from services.mitm.exchange import SWITCHING_PROTOCOLS, Exchange
from services.mitm.known_peer import KnownPeer
from services.mitm.observation import INTERNAL, Abort
from services.mitm.observer import observe
from services.mitm.passage import NO_PASSAGE, open_passage
from services.mitm.refusal import refusal
from services.mitm.stream import BACKLOG_BYTES_MAX, BROKEN_OFF, ENDED, NOTHING_YET, Stream, TlsFailed
from services.mitm.upstream import Route, UpstreamFailed
from services.mitm.wiring import RelayOwner, Wiring
from services.wire.http1 import Framing, HttpInvalid, RequestHead, read_request_head
from services.wire.usual_head import usual_request_head

AHEAD_BYTES_MAX = 64 * 1024  # what a client may send while a response is under way
LINGER_S = 2.0  # how long a refused client may go on sending before its connection is reset
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


class _Phase(Enum):
    HEAD = "awaiting a request"
    DIAL = "awaiting the upstream connection"
    BODY = "forwarding the request"
    RESPONSE = "awaiting the response"
    UPGRADED = "relaying another protocol"
    LINGER = "awaiting the client's end"
    OVER = "over"


# Those of every exchange: an attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_HEAD = _Phase.HEAD
_RESPONSE = _Phase.RESPONSE
_UPGRADED = _Phase.UPGRADED
_OVER = _Phase.OVER
_NO_BODY = Framing.NONE


class Relay:
    """
    Serves one client stream until it ends; owns it, and the upstream stream of the exchange under way.

    Nothing is awaited: readiness calls `_on_client` and `_on_upstream`, a dial ends in `upstream_ready` or
    `upstream_failed`, the owner's timer calls `expire` when `deadline` has passed.
    """

    __slots__ = (
        "_ahead",
        "_client",
        "_exchange",
        "_has_spoken",
        "_idle_timeout_s",
        "_owner",
        "_passage",
        "_peer",
        "_phase",
        "_plain",
        "_poller",
        "_route",
        "_upstream",
        "_view",
        "_wiring",
        "deadline",
    )

    def __init__(
        self, client: Stream, route: Route, peer: KnownPeer, wiring: Wiring, owner: RelayOwner["Relay"]
    ) -> None:
        self._client = client
        self._peer = peer
        self._route = route
        self._wiring = wiring
        self._owner = owner
        self._plain, self._view = wiring.scratch.plain, wiring.scratch.plain_view
        self._poller = wiring.poller
        self._idle_timeout_s = wiring.limits.idle_timeout_s
        self._ahead = bytearray()
        self._has_spoken = False  # a whole head has come
        self._upstream: Stream | None = None
        self._passage = NO_PASSAGE  # for the response under way
        self._exchange = Exchange()
        self._phase = _HEAD
        self.deadline = wiring.poller.now + wiring.limits.head_timeout_s
        client.watch(self._on_client, self._on_client_drained, self.fail)

    def __repr__(self) -> str:
        return f"<Relay to {self._route.host}: {self._phase.value}>"

    @property
    def is_idle(self) -> bool:
        """Nothing is under way: the client may be sent away."""
        return self._phase is _HEAD and not self._ahead

    # -- from the client ---------------------------------------------------

    def receive_early(self) -> None:
        """Take what came with the end of the TLS handshake."""
        self._on_client(early=True)

    def _on_client(self, early: bool = False) -> None:
        try:
            size = self._client.receive_decrypted() if early else self._client.receive()
        except TlsFailed as error:
            self._wiring.logs.info("client.failed", host=self._route.host, reason=str(error))
            size = BROKEN_OFF
        if size <= 0:
            if size != NOTHING_YET:
                self._client_gone()
        elif self._phase is _HEAD:
            self._take_head(self._plain, self._view, size)
        else:
            self._take(self._plain, self._view, size)

    def _take(self, data: bytearray, view: memoryview, size: int) -> None:
        """Take `data[:size]`, the next bytes from the client behind a head; `view` is a view of `data`."""
        phase = self._phase
        if phase is _Phase.BODY:
            self._take_body(data, view, size)
        elif phase is _UPGRADED:
            assert self._upstream is not None
            self.deadline = self._poller.now + self._idle_timeout_s
            self._exchange.upgraded_up(view[:size], self._poller.now)
            if self._upstream.send(view[:size]) > BACKLOG_BYTES_MAX:
                self._client.pause()
        elif phase is not _Phase.LINGER:
            self._keep_ahead(view[:size])

    def _keep_ahead(self, data: memoryview) -> None:
        self._ahead += data
        if len(self._ahead) > AHEAD_BYTES_MAX:
            self._client.pause()

    def _take_head(self, data: bytearray, view: memoryview, size: int) -> None:
        if not self._ahead:
            usual = usual_request_head(data, size, self._wiring.limits.head_bytes_max)
            if usual is not None:
                request, end = usual
                self._begin(request, end, data, view, size)
                return
            self.deadline = self._poller.now + self._wiring.limits.head_timeout_s
        limits = self._wiring.limits
        looked = max(0, len(self._ahead) - 3)  # the head is cut over several reads: go on where the last look ended
        self._ahead += view[:size]
        end = self._ahead.find(b"\r\n\r\n", looked)
        head_bytes = end + 4 if end >= 0 else len(self._ahead)
        if head_bytes > limits.head_bytes_max:
            self._refuse(431, f"request head of {head_bytes} bytes exceeds {limits.head_bytes_max}")
        elif end >= 0:
            data, self._ahead = self._ahead, bytearray()
            try:
                request = read_request_head(bytes(data[:head_bytes]))
            except HttpInvalid as error:
                self._refuse(400, str(error))
                return
            self._begin(request, head_bytes, data, memoryview(data), len(data))

    def _begin(self, request: RequestHead, head_end: int, data: bytearray, view: memoryview, size: int) -> None:
        """Begin an exchange whose head is `data[:head_end]`, followed by whatever else has come."""
        if not self._has_spoken:
            self._has_spoken = True
            self._owner.client_spoke(self._route.host)
        exchange, wiring = self._exchange, self._wiring
        observation = observe(self._route.host, request, self._peer, self._poller.now, wiring.observer_parts)
        try:
            end = exchange.begin(request, observation, data, view, head_end, size)
        except HttpInvalid as error:
            self._refuse(400, str(error))
            return
        if end < size:
            self._keep_ahead(view[end:size])
        upstream = wiring.pool.take(self._route)
        if upstream is None:
            exchange.held = bytes(view[:end])
            self._client.pause()
            self._dial()
            return
        if request.framing is _NO_BODY and request.method in _IDEMPOTENT:
            exchange.replay = bytes(view[:head_end])
        self._upstream = upstream
        upstream.watch(self._on_upstream, self._on_upstream_drained, self.fail)
        self._send_request(upstream, view[:end])

    def _take_body(self, data: bytearray, view: memoryview, size: int) -> None:
        """Forward `data[:size]`, with which the request's body goes on."""
        upstream = self._upstream
        assert upstream is not None
        try:
            end = self._exchange.follow_request(data, view, 0, size)
        except HttpInvalid as error:
            self._refuse(400, str(error))
            return
        self._send_request(upstream, view[:end])
        if end < size:
            self._keep_ahead(view[end:size])

    def _send_request(self, upstream: Stream, data: memoryview | bytes) -> None:
        """Send the next piece of the request, which may be the last."""
        backlog = upstream.send(data)
        if self._exchange.request_body.done:
            self._phase = _RESPONSE
            self.deadline = self._poller.now + self._wiring.limits.response_timeout_s
            return
        self._phase = _Phase.BODY
        self.deadline = self._poller.now + self._idle_timeout_s
        if backlog > BACKLOG_BYTES_MAX:
            self._client.pause()

    # -- the dial ----------------------------------------------------------

    def _dial(self) -> None:
        limits = self._wiring.limits
        self._phase = _Phase.DIAL
        # The dialer keeps its own times; this is for the case that it does not.
        self.deadline = self._poller.now + 2 * limits.connect_timeout_s + limits.handshake_timeout_s + 1
        self._wiring.dial(self._route, self)

    def upstream_ready(self, upstream: Stream) -> bool:
        """Go on with a new upstream connection; False when nobody waits for it any more."""
        if self._phase is not _Phase.DIAL:
            return False
        held, self._exchange.held = self._exchange.held, b""
        self._client.resume()
        self._upstream = upstream
        upstream.watch(self._on_upstream, self._on_upstream_drained, self.fail)
        self._send_request(upstream, held)
        return True

    def upstream_failed(self, failure: UpstreamFailed) -> None:
        """Tell the client why there is no upstream connection."""
        if self._phase is _Phase.DIAL:
            status = 504 if failure.kind == "timeout" else 502
            self._refuse(status, str(failure), f"upstream_{failure.kind}")

    # -- from upstream -----------------------------------------------------

    def _on_upstream(self) -> None:
        upstream = self._upstream
        assert upstream is not None
        try:
            size = upstream.receive()
        except TlsFailed as error:
            self._upstream_gone(BROKEN_OFF, f"TLS with {self._route.host} failed: {error}")
            return
        if size <= 0:
            if size != NOTHING_YET:
                self._upstream_gone(size)
            return
        exchange = self._exchange
        if not exchange.response_ahead:
            self._take_response_head(upstream, self._plain, self._view, size)
        elif (head := exchange.head_continued(self._view[:size], self._wiring.limits.head_bytes_max)) is not None:
            self._take_response_head(upstream, head, memoryview(head), len(head))
        # close_notify came in the same read as the last data: nothing more will be readable to say so.
        if upstream.ended and self._upstream is upstream:
            self._upstream_gone(ENDED)

    def _take_more(self, receive: Callable[[], int]) -> None:
        """As `_on_upstream`, once the head has passed."""
        upstream = self._upstream
        assert upstream is not None
        self.deadline = self._poller.now + self._idle_timeout_s  # a part of a TLS record is movement too
        try:
            size = receive()
        except TlsFailed as error:
            self._upstream_gone(BROKEN_OFF, f"TLS with {self._route.host} failed: {error}")
            return
        if size > 0:
            if self._phase is _UPGRADED:
                self._exchange.upgraded_down(self._view[:size], self._poller.now)
                if self._client.send(self._view[:size]) > BACKLOG_BYTES_MAX:
                    upstream.pause()
            else:
                self._take_response(size)
            if upstream.ended and self._upstream is upstream:
                self._upstream_gone(ENDED)
        elif size != NOTHING_YET:
            self._upstream_gone(size)

    def _take_response_head(self, upstream: Stream, data: bytearray, view: memoryview, size: int) -> None:
        """Read heads out of `data[:size]`, interim ones (1xx) included, and go on with the body of the final one."""
        exchange = self._exchange
        try:
            end = exchange.begin_response(data, view, size, self._wiring.limits.head_bytes_max, self._poller.now)
        except HttpInvalid as error:
            self._response_is_nonsense(str(error))
            return
        if exchange.response is None:
            if end:
                self._client.send(view[:end])  # interim heads are no beginning: an error can still be told
        elif exchange.response_body.done:
            self._client.send(view[:end])
            self._finish(upstream, size - end)
        else:
            self.deadline = self._poller.now + self._idle_timeout_s
            upstream.watch(partial(self._take_more, upstream.receive), self._on_upstream_drained, self.fail)
            if exchange.response.status == SWITCHING_PROTOCOLS:
                self._upgrade(view, end, size)
            else:
                self._send_response(view, end, size)
            if (follow := exchange.chunk_follower()) is not None:
                self._passage = open_passage(upstream, self._client, self._poller, follow, self._take_more)

    def _take_response(self, size: int) -> None:
        """Observe and forward the next `size` bytes, with which the response's body goes on."""
        try:
            end = self._exchange.follow_response(self._plain, self._view, 0, size, self._poller.now)
        except HttpInvalid as error:
            self._response_is_nonsense(str(error))
            return
        self._send_response(self._view, end, size)

    def _send_response(self, view: memoryview, end: int, size: int) -> None:
        """Forward `view[:end]`; what lies behind it is no part of the response."""
        exchange, upstream = self._exchange, self._upstream
        assert upstream is not None
        exchange.has_begun = True
        backlog = self._client.send(view[:end])
        if exchange.response_body.done:
            self._passage.close()
            self._finish(upstream, size - end)
        elif backlog > BACKLOG_BYTES_MAX:
            upstream.pause()

    def _upgrade(self, view: memoryview, start: int, size: int) -> None:
        """Become a relay of another protocol, whose first bytes are `view[start:size]`."""
        self._exchange.upgrade(self._poller.now, self._wiring.observer_parts)
        self._exchange.upgraded_down(view[start:size], self._poller.now)
        self._phase = _UPGRADED
        self._exchange.has_begun = True
        self._client.send(view[:size])
        self._client.resume()
        if self._ahead:
            data, self._ahead = self._ahead, bytearray()
            self._take(data, memoryview(data), len(data))

    def _finish(self, upstream: Stream, extra: int) -> None:
        """The response is whole: keep what can be kept, close what cannot, go on with what was sent ahead."""
        exchange = self._exchange
        request, response = exchange.request, exchange.response
        assert request is not None and response is not None
        keeps_alive = request.keeps_alive and response.keeps_alive and exchange.request_body.done
        self._upstream = None
        if keeps_alive and not (extra or upstream.ended or upstream.sent_failed):
            self._wiring.pool.put(self._route, upstream)
        else:
            self._wiring.pool.discard(upstream)
        exchange.clear()
        if not keeps_alive:
            self._close_gently()
            return
        self._phase = _HEAD
        self.deadline = self._poller.now + self._wiring.limits.keep_alive_timeout_s
        if self._ahead:
            self._client.resume()  # which nothing else has paused
            data, self._ahead = self._ahead, bytearray()
            self._take_head(data, memoryview(data), len(data))

    # -- readiness to write ------------------------------------------------

    def _on_client_drained(self) -> None:
        if self._phase is _Phase.LINGER:
            self.deadline = self._poller.now + LINGER_S
        elif self._upstream is not None:
            if self._exchange.has_begun:
                self.deadline = self._poller.now + self._idle_timeout_s
            self._upstream.resume()

    def _on_upstream_drained(self) -> None:
        if self._phase in (_Phase.BODY, _UPGRADED):
            self.deadline = self._poller.now + self._idle_timeout_s
            self._client.resume()

    # -- the end -----------------------------------------------------------

    def _client_gone(self) -> None:
        """The client has closed: with an exchange under way, it has aborted it."""
        if not self._has_spoken and not self._ahead:
            self._owner.client_left_silently(self._route.host)
        self._break(Abort.CLIENT, "the client closed the connection")
        self._end()

    def _upstream_gone(self, how: int, reason: str | None = None) -> None:
        response = self._exchange.response
        if self._phase is _UPGRADED:
            self._break(None if how == ENDED else Abort.UPSTREAM, reason or "upstream closed the connection")
            if how == ENDED:
                self._drop_upstream()
                self._close_gently()
            else:
                self._end(abort_client=True)
        elif how == ENDED and response is not None and response.framing is Framing.UNTIL_CLOSE:
            self._exchange.ended(self._poller.now)
            self._drop_upstream()
            self._close_gently()
        elif self._exchange.has_begun:
            self._break(Abort.UPSTREAM, "upstream closed the connection in the middle of its response")
            self._end(abort_client=True)
        elif self._exchange.replay and not self._exchange.response_ahead:
            self._dial_again()
        else:
            reason = reason or f"{self._route.host} closed the connection without a response"
            self._refuse(502, reason, "upstream_closed")

    def _dial_again(self) -> None:
        """A kept connection was closed as we used it: an idempotent request without a body goes out once more."""
        self._drop_upstream()
        self._exchange.held, self._exchange.replay = self._exchange.replay, b""
        self._dial()

    def _response_is_nonsense(self, reason: str) -> None:
        if self._exchange.has_begun:
            self._break(Abort.UPSTREAM, reason)
            self._end(abort_client=True)
        else:
            self._refuse(502, f"{self._route.host} answered nonsense: {reason}", "upstream_invalid")

    def _refuse(self, status: int, reason: str, error_type: str = "request_invalid") -> None:
        """Answer a bad request, or in upstream's place, then wait for the client to stop sending."""
        if self._exchange.has_begun:
            self._break(Abort.CLIENT if error_type == "request_invalid" else Abort.UPSTREAM, reason)
            self._end(abort_client=True)
            return
        self._wiring.logs.warning("exchange.refused", host=self._route.host, status=status, reason=reason)
        self._exchange.refused(status, error_type, reason, self._poller.now)
        self._drop_upstream()
        is_head = self._exchange.request is not None and self._exchange.request.method == "HEAD"
        self._client.send(refusal(status, error_type, reason, with_body=not is_head))
        self._close_gently()

    def _close_gently(self) -> None:
        """Say that we are done and let the client close: closing first could reset what it has not read yet."""
        self._phase = _Phase.LINGER
        self._client.shut_writing()  # only behind it is the backlog all that the socket has not taken
        self.deadline = self._poller.now + (self._idle_timeout_s if self._client.backlog else LINGER_S)
        self._client.resume()

    def _break(self, aborted_by: Abort | None, reason: str) -> None:
        self._exchange.broken(aborted_by, reason, self._poller.now)

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            upstream, self._upstream = self._upstream, None
            self._passage.close()
            self._wiring.pool.discard(upstream)

    def _end(self, *, abort_client: bool = False) -> None:
        if self._phase is _OVER:
            return
        self._phase = _OVER
        self._drop_upstream()
        if abort_client:
            self._client.abort()
        else:
            self._client.close()
        self._owner.relay_ended(self)

    def expire(self) -> None:
        """What was awaited has not come until the deadline."""
        host, limits = self._route.host, self._wiring.limits
        if self._passage.moved_at + self._idle_timeout_s > self.deadline:
            self.deadline = self._passage.moved_at + self._idle_timeout_s
        elif self._phase is _HEAD and self._ahead:
            self._refuse(408, f"no whole request head within {limits.head_timeout_s:g} s", "request_timeout")
        elif self._phase in (_HEAD, _Phase.LINGER):
            self._end()
        elif self._phase is _RESPONSE and not self._exchange.has_begun:
            self._refuse(504, f"no response from {host} within {limits.response_timeout_s:g} s", "upstream_timeout")
        elif self._phase is _Phase.DIAL:
            self._refuse(504, f"no connection to {host} in time", "upstream_timeout")
        elif self._phase is _Phase.BODY and not self._exchange.has_begun:
            still = f"nothing of the request's body moved for {limits.idle_timeout_s:g} s"
            if self._upstream is not None and self._upstream.backlog:
                self._refuse(504, f"{host} does not take the request: {still}", "upstream_timeout")
            else:
                self._refuse(408, still, "request_timeout")
        else:
            # What waits for the client is what it does not read.
            aborted_by = Abort.CLIENT if self._client.backlog else Abort.UPSTREAM
            self._break(aborted_by, f"nothing moved for {limits.idle_timeout_s:g} s")
            self._end(abort_client=True)

    def stop(self) -> None:
        """The process stops."""
        self._break(Abort.PROXY, "the proxy stopped")
        self._end(abort_client=self._exchange.has_begun)

    def fail(self) -> None:
        """A step of ours has failed: the exchange ends, and the connection with it."""
        self._break(Abort.PROXY, INTERNAL)
        self._end(abort_client=True)
