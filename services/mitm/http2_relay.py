"""
One client's HTTP/2 connection and the one to its provider: each stream passes to a stream of its own, observed.

One connection upstream for each of the client's, dialled at the first request, so that limits, GOAWAY and the end of
either mean on one side what they mean on the other. No translation: where upstream does not speak HTTP/2, each request
is answered with 502 and the reason.
"""

from collections import deque
from enum import Enum

from services.mitm.http2_exchange import Exchange
from services.mitm.http2_flow import Side
from services.mitm.known_peer import KnownPeer
from services.mitm.observation import INTERNAL, Abort
from services.mitm.observer import observe
from services.mitm.relay import LINGER_S
from services.mitm.stream import BROKEN_OFF, NOTHING_YET, Stream, TlsFailed
from services.mitm.upstream import Route, UpstreamFailed
from services.mitm.wiring import RelayOwner, Wiring
from services.wire.http2 import Http2End
from services.wire.http2_parts import (
    ALPN,
    LAST_STREAM_ID_MAX,
    NO_ERROR,
    REFUSED_STREAM,
    Data,
    GoneAway,
    Head,
    HeadKind,
    Http2Invalid,
    Part,
    Reset,
    WindowOpened,
    request_head_of,
)


class _Phase(Enum):
    OPEN = "relaying"
    DRAINING = "awaiting the end of the streams under way"
    LINGER = "awaiting the client's end"
    OVER = "over"


class Http2Relay:
    """
    Serves one client connection until it ends; owns it and the upstream connection.

    Nothing is awaited: readiness calls `_on_client` and `_on_upstream`, a dial ends in `upstream_ready` or
    `upstream_failed`, the owner's timer calls `expire` when `deadline` has passed.
    """

    __slots__ = (
        "_at_upstream",
        "_client",
        "_dialling",
        "_exchanges",
        "_farewell",
        "_heard",
        "_idle_deadline",
        "_owner",
        "_peer",
        "_phase",
        "_route",
        "_spoke",
        "_upstream",
        "_view",
        "_waiting",
        "_wiring",
    )

    def __init__(
        self,
        client: Stream,
        route: Route,
        peer: KnownPeer,
        wiring: Wiring,
        owner: RelayOwner["Http2Relay"],
        upstream: Stream | None = None,
    ) -> None:
        self._peer = peer
        self._route = route
        self._wiring = wiring
        self._owner = owner
        self._view = wiring.scratch.plain_view
        self._exchanges: dict[int, Exchange] = {}
        self._at_upstream: dict[int, Exchange] = {}
        self._waiting: deque[Exchange] = deque()
        self._upstream: Side | None = None
        self._dialling = False
        self._farewell: GoneAway | None = None
        self._heard = False
        self._spoke = False
        self._phase = _Phase.OPEN
        self._idle_deadline = wiring.poller.now + wiring.limits.head_timeout_s
        head_bytes_max = wiring.limits.head_bytes_max
        self._client = Side(Http2End(is_client=False, head_bytes_max=head_bytes_max), client)
        client.watch(self._on_client, self._on_client_drained, self.fail)
        if upstream is not None:
            self._attach(upstream)
        self._client.flush()

    def __repr__(self) -> str:
        return f"<Http2Relay to {self._route.host}: {self._phase.value}, {len(self._exchanges)} streams>"

    @property
    def is_idle(self) -> bool:
        """Nothing is under way: the client may be sent away."""
        return not self._exchanges and self._phase is not _Phase.LINGER

    @property
    def deadline(self) -> float:
        """When `expire` is to be called: the first of the exchanges' own times, else the connection's."""
        if self._exchanges:
            return min(exchange.deadline for exchange in self._exchanges.values())
        return self._idle_deadline

    # -- from the client ---------------------------------------------------

    def _on_client(self) -> None:
        self._take_client(self._receive(self._client.stream))

    def receive_early(self) -> None:
        """Take what came with the end of the TLS handshake."""
        self._take_client(self._receive(self._client.stream, early=True))

    def _receive(self, stream: Stream, *, early: bool = False) -> int:
        try:
            return stream.receive_decrypted() if early else stream.receive()
        except TlsFailed as error:
            self._wiring.logs.info("tls.failed", host=self._route.host, reason=str(error))
            return BROKEN_OFF

    def _take_client(self, size: int) -> None:
        if size < 0:
            self._client_gone()
        elif size != NOTHING_YET and self._phase is not _Phase.LINGER:
            self._heard = True
            try:
                for part in self._client.end.feed(bytes(self._view[:size]), self._wiring.poller.now):
                    self._take_client_part(part)
            except Http2Invalid as error:
                self._client_is_nonsense(str(error))
                return
            self._settle()

    def _take_client_part(self, part: Part) -> None:
        if isinstance(part, GoneAway):
            self._client_goes_away(part)
        elif isinstance(part, WindowOpened):
            if not self._exchanges:
                # Its SETTINGS, most likely: clients may connect long before they have something to ask.
                self._idle_deadline = self._wiring.poller.now + self._wiring.limits.keep_alive_timeout_s
            self._wake(part.stream_id, self._exchanges)
        elif isinstance(part, Head) and part.kind is HeadKind.REQUEST:
            self._begin(part)
        else:
            exchange = self._exchanges.get(part.stream_id)
            if isinstance(part, Data):
                if exchange is None:
                    self._client.end.release(part.stream_id, len(part.content))
                else:
                    exchange.request_data(part)
            elif exchange is not None and isinstance(part, Head):
                exchange.request_trailer(part)
            elif exchange is not None and isinstance(part, Reset):
                exchange.client_reset(part.code)

    def _begin(self, head: Head) -> None:
        if self._phase is not _Phase.OPEN:
            self._client.end.reset(head.stream_id, REFUSED_STREAM)
            return
        if not self._spoke:
            self._spoke = True
            self._owner.client_spoke(self._route.host)
        request, wiring = request_head_of(head), self._wiring
        observation = observe(self._route.host, request, self._peer, wiring.poller.now, wiring.observer_parts)
        exchange = Exchange(head, self._route.host, self._client, observation, self._wiring, self)
        self._exchanges[head.stream_id] = exchange
        if request.method == "CONNECT":
            # RFC 8441 is not offered in our SETTINGS: WebSocket clients use HTTP/1.1.
            exchange.refuse(501, "request_invalid", "CONNECT within HTTP/2 is not relayed")
            return
        self._waiting.append(exchange)
        if self._upstream is None and not self._dialling:
            self._dialling = True
            self._wiring.dial_http2(self._route, self)

    def _client_goes_away(self, part: GoneAway) -> None:
        """The client opens no more streams, RFC 9113 §6.8; those under way go on."""
        self._phase = _Phase.DRAINING
        self._farewell = part
        self._pass_farewell()

    def _pass_farewell(self) -> None:
        if self._upstream is not None and self._farewell is not None:
            # The number is of pushed streams: there are none.
            self._upstream.end.go_away(0, self._farewell.code, self._farewell.debug)
            self._farewell = None

    def _client_is_nonsense(self, reason: str) -> None:
        self._wiring.logs.warning("client.refused", host=self._route.host, reason=reason)
        for exchange in list(self._exchanges.values()):
            exchange.break_off(Abort.CLIENT, reason)
        self._close_gently()

    def _client_gone(self) -> None:
        if not self._heard:
            self._owner.client_left_silently(self._route.host)
        self._end(Abort.CLIENT, "the client closed the connection")

    # -- the dial ----------------------------------------------------------

    def upstream_ready(self, upstream: Stream) -> bool:
        """Go on with a new upstream connection; False when nobody waits for it any more."""
        self._dialling = False
        if self._phase in (_Phase.LINGER, _Phase.OVER):
            return False
        if upstream.protocol != ALPN:
            self._wiring.pool.discard(upstream)
            self._upstream_is_over(f"{self._route.host} does not speak HTTP/2, and the client nothing else", "http2")
        else:
            self._attach(upstream)
            self._open_waiting()
            self._pass_farewell()
        self._settle()
        return True

    def upstream_failed(self, failure: UpstreamFailed) -> None:
        """Tell the client why there is no upstream connection; the next request tries again."""
        self._dialling = False
        status = 504 if failure.kind == "timeout" else 502
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.has_begun and not exchange.is_over:
                exchange.refuse(status, f"upstream_{failure.kind}", str(failure))
        if self._phase is not _Phase.OVER:
            self._settle()

    def _attach(self, upstream: Stream) -> None:
        end = Http2End(is_client=True, head_bytes_max=self._wiring.limits.head_bytes_max)
        self._upstream = Side(end, upstream)
        upstream.watch(self._on_upstream, self._on_upstream_drained, self.fail)
        self._upstream.flush()
        # Its SETTINGS may have come with the end of the handshake.
        self._take_upstream(self._upstream, self._receive(upstream, early=True))

    def _open_waiting(self) -> bool:
        """Give waiting requests to upstream, in their order; True if one went."""
        opened = False
        while self._waiting and self._upstream is not None:
            exchange = self._waiting[0]
            if not exchange.is_over and not exchange.has_begun:
                if not exchange.open(self._upstream):
                    break
                assert exchange.upstream_id is not None
                self._at_upstream[exchange.upstream_id] = exchange
                opened = True
            self._waiting.popleft()
        return opened

    # -- from upstream -----------------------------------------------------

    def _on_upstream(self) -> None:
        upstream = self._upstream
        assert upstream is not None
        self._take_upstream(upstream, self._receive(upstream.stream))
        self._settle()

    def _take_upstream(self, upstream: Side, size: int) -> None:
        if size > 0:
            try:
                for part in upstream.end.feed(bytes(self._view[:size]), self._wiring.poller.now):
                    self._take_upstream_part(part, upstream)
            except Http2Invalid as error:
                upstream.flush()
                self._upstream_is_over(f"{self._route.host} answered nonsense: {error}", "invalid")
        if size < 0 or (upstream.stream.ended and self._upstream is upstream):
            self._upstream_is_over(f"{self._route.host} closed the connection", "closed")

    def _take_upstream_part(self, part: Part, upstream: Side) -> None:
        if isinstance(part, GoneAway):
            self._upstream_goes_away(part)
            return
        if isinstance(part, WindowOpened):
            self._wake(part.stream_id, self._at_upstream)
            return
        exchange = self._at_upstream.get(part.stream_id)
        if isinstance(part, Data):
            if exchange is None:
                upstream.end.release(part.stream_id, len(part.content))
            else:
                exchange.response_data(part)
        elif exchange is not None and isinstance(part, Head):
            exchange.response_head(part)
        elif exchange is not None and isinstance(part, Reset):
            exchange.upstream_reset(part.code)

    def _upstream_goes_away(self, part: GoneAway) -> None:
        """Pass it on in the client's numbers; requests that upstream has not looked at may be sent again."""
        last = self._client.end.last_stream_id
        if part.last_stream_id == LAST_STREAM_ID_MAX:
            last = LAST_STREAM_ID_MAX  # the first of two: more streams may come until the second, and still count
        else:
            self._phase = _Phase.DRAINING
            for exchange in list(self._exchanges.values()):
                stream_id = exchange.upstream_id
                if not exchange.has_begun and (stream_id is None or stream_id > part.last_stream_id):
                    last = min(last, max(0, exchange.head.stream_id - 2))
                    exchange.unprocessed(REFUSED_STREAM)
            self._waiting.clear()
        self._client.end.go_away(last, part.code, part.debug)

    def _upstream_is_over(self, reason: str, kind: str) -> None:
        """End what was on the connection to upstream; the client's ends when all of that has gone to it."""
        if self._upstream is not None:
            side, self._upstream = self._upstream, None
            self._wiring.pool.discard(side.stream)
        self._at_upstream.clear()
        self._waiting.clear()
        for exchange in list(self._exchanges.values()):
            exchange.upstream_gone(reason, f"upstream_{kind}")
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.DRAINING
            self._client.end.go_away(self._client.end.last_stream_id, NO_ERROR)

    # -- how it goes on ----------------------------------------------------

    def _wake(self, stream_id: int, exchanges: dict[int, Exchange]) -> None:
        """There may be room on one stream, or on all."""
        if stream_id == 0:
            for exchange in exchanges.values():
                exchange.wake()
        elif stream_id in exchanges:
            exchanges[stream_id].wake()

    def _settle(self) -> None:
        """Send what can be sent, after something has come or become possible."""
        while True:
            for side in self._sides():
                side.pump()
            if not self._open_waiting():
                break
        for side in self._sides():
            side.flush()
        if self._phase is _Phase.DRAINING and not self._exchanges:
            self._close_gently()

    def _sides(self) -> tuple[Side, ...]:
        return (self._client,) if self._upstream is None else (self._upstream, self._client)

    def exchange_over(self, exchange: Exchange) -> None:
        """See `ExchangeOwner`."""
        self._exchanges.pop(exchange.head.stream_id, None)
        if exchange.upstream_id is not None:
            self._at_upstream.pop(exchange.upstream_id, None)
        if not self._exchanges:
            self._idle_deadline = self._wiring.poller.now + self._wiring.limits.keep_alive_timeout_s

    def _on_client_drained(self) -> None:
        if self._phase is _Phase.LINGER:
            self._idle_deadline = self._wiring.poller.now + LINGER_S
        else:
            self._client.stream.resume()
            self._settle()

    def _on_upstream_drained(self) -> None:
        assert self._upstream is not None
        self._upstream.stream.resume()
        self._settle()

    # -- the end -----------------------------------------------------------

    def _close_gently(self) -> None:
        """Say that we are done and let the client close: closing first could reset what it has not read yet."""
        self._drop_upstream()
        self._client.flush()
        self._phase = _Phase.LINGER
        stream, limits = self._client.stream, self._wiring.limits
        stream.shut_writing()  # only behind it is the backlog all that the socket has not taken
        self._idle_deadline = self._wiring.poller.now + (limits.idle_timeout_s if stream.backlog else LINGER_S)
        stream.resume()

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            side, self._upstream = self._upstream, None
            side.flush()
            self._wiring.pool.discard(side.stream)

    def _end(self, aborted_by: Abort, reason: str, *, abort_client: bool = False) -> None:
        if self._phase is _Phase.OVER:
            return
        self._phase = _Phase.OVER
        for exchange in list(self._exchanges.values()):
            exchange.break_off(aborted_by, reason)
        self._drop_upstream()
        if abort_client:
            self._client.stream.abort()
        else:
            self._client.stream.close()
        self._owner.relay_ended(self)

    def expire(self) -> None:
        """What was awaited has not come until the deadline."""
        now = self._wiring.poller.now
        if self._exchanges:
            for exchange in [each for each in self._exchanges.values() if each.deadline <= now]:
                exchange.expire()
            self._settle()
        elif self._phase is _Phase.LINGER or not self._heard:
            self._end(Abort.CLIENT, "")
        else:
            self._client.end.go_away(self._client.end.last_stream_id, NO_ERROR)
            self._close_gently()

    def stop(self) -> None:
        """The process stops."""
        under_way = bool(self._exchanges)
        if not under_way and self._phase is _Phase.OPEN:
            self._client.end.go_away(self._client.end.last_stream_id, NO_ERROR)
            self._client.flush()
        self._end(Abort.PROXY, "the proxy stopped", abort_client=under_way)

    def fail(self) -> None:
        """A step of ours has failed: the exchanges end, and the connection with them."""
        self._end(Abort.PROXY, INTERNAL, abort_client=True)
