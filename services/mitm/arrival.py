"""
A connection from its first byte until it is known what it is: redirected TLS, a CONNECT request, or neither.

The ClientHello is read before anything is decided. A listed server name is intercepted; any other, or none, is passed
through unopened to where the client wanted to go. What is neither TLS nor CONNECT is told so and closed.
"""

import base64
import binascii
import ipaddress
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from services.mitm.config import CANARY_HOST
from services.mitm.known_peer import KnownPeer
from services.mitm.peer import Address
from services.mitm.refusal import refusal
from services.mitm.relay import LINGER_S, Relay
from services.mitm.stream import NOTHING_YET, Stream, TlsContext, TlsFailed
from services.mitm.tunnel import Tunnel, tunnel_record
from services.mitm.upstream import Route, UpstreamFailed
from services.mitm.wiring import Wiring
from services.runtime.environment import ClientName, client_name
from services.runtime.settings import split_address
from services.wire.client_hello import (
    HANDSHAKE_RECORD,
    ClientHello,
    ClientHelloInvalid,
    ClientHelloReader,
    read_whole_hello,
)
from services.wire.http1 import HttpInvalid, RequestHead, read_request_head
from services.wire.http2_parts import ALPN as HTTP2

if TYPE_CHECKING:
    from services.mitm.http2_relay import Http2Relay

# A proxy's request head has an address and credentials, nothing more.
CONNECT_HEAD_BYTES_MAX = 16 * 1024
_HTTPS_PORT = 443
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
# RFC 8446 §6.2
_DECODE_ERROR = 50
_UNRECOGNIZED_NAME = 112
_NO_APPLICATION_PROTOCOL = 120
# How OpenSSL words the alerts of a client that does not take our certificate, RFC 8446 §6.2.
_DISTRUST = (
    "unknown ca",
    "bad certificate",
    "certificate unknown",
    "unsupported certificate",
    "certificate expired",
)


class _Phase(Enum):
    FIRST_BYTES = "awaiting the first bytes"
    HELLO = "awaiting a ClientHello"
    CHOICE = "awaiting the protocol that the provider speaks"
    HANDSHAKE = "awaiting the end of the handshake"
    DIAL = "awaiting the tunnel's other end"
    LINGER = "awaiting the client's end"
    OVER = "over"


# Those of every connection: an attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_FIRST_BYTES = _Phase.FIRST_BYTES
_HELLO = _Phase.HELLO
_HANDSHAKE = _Phase.HANDSHAKE
_OVER = _Phase.OVER


@lru_cache(maxsize=256)
def _route(host: str, port: int, original: Address | None) -> Route:
    """Most connections go where others have gone."""
    return Route(host=host, port=port, original=original)


class Arrivals(Protocol):
    """The server, as an arrival sees it."""

    def arrival_became(self, arrival: "Arrival", successor: "Relay | Http2Relay | Tunnel | None") -> None:
        """The arrival has handed its stream to `successor`, or closed it."""

    def relay_ended(self, relay: "Relay | Http2Relay") -> None:
        """A relay has closed its streams."""

    def tunnel_ended(self, tunnel: Tunnel) -> None:
        """A tunnel has closed its streams."""

    def client_distrusts(self, host: str, reason: str) -> None:
        """A client does not take our certificate."""

    def client_left_silently(self, host: str) -> None:
        """A client has left after our certificate without having asked for anything: some say no so."""

    def client_spoke(self, host: str) -> None:
        """A client has made a request, so that it trusts us."""

    @property
    def server_context(self) -> Callable[[str, bool], TlsContext]:
        """Returns the TLS context that shows a leaf for a host, and speaks HTTP/2 or not."""


class Arrival:
    """Owns a new client stream until it knows to whom to give it."""

    __slots__ = (
        "_arrivals",
        "_connect",
        "_established",
        "_hello",
        "_http2",
        "_original",
        "_peer",
        "_phase",
        "_received",
        "_route",
        "_stream",
        "_upstream",
        "_wiring",
        "deadline",
    )

    def __init__(
        self, stream: Stream, peer: KnownPeer, original: Address | None, wiring: Wiring, arrivals: Arrivals
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._original = original
        self._wiring = wiring
        self._arrivals = arrivals
        self._phase = _FIRST_BYTES
        self._received = b""
        self._hello: ClientHelloReader | None = None  # for one that does not come as a whole
        self._connect: Address | None = None
        self._established = False
        self._route: Route | None = None
        self._http2 = False
        self._upstream: Stream | None = None
        self.deadline = wiring.poller.now + wiring.limits.client_hello_timeout_s
        stream.watch(self.on_readable, on_failed=self.fail)

    def __repr__(self) -> str:
        return f"<Arrival {self._phase.value}>"

    # -- the first bytes ---------------------------------------------------

    def on_readable(self) -> None:
        """Take what has come."""
        phase = self._phase
        if phase is _HANDSHAKE:
            self._on_handshake()
            return
        size = self._stream.receive()
        if size <= 0:
            if size != NOTHING_YET:
                self._end()
            return
        data = bytes(self._wiring.scratch.plain_view[:size])
        if phase is _FIRST_BYTES:
            self._take_first_bytes(data)
        elif phase is _HELLO:
            self._take_hello(data)

    def _take_first_bytes(self, data: bytes) -> None:
        if not self._received and data[0] == HANDSHAKE_RECORD:
            self._phase = _HELLO
            self._take_hello(data)
            return
        if not self._received and not data[:1].isalpha():
            self._refuse(400, f"{data[:8].hex(' ')} begins neither TLS nor a CONNECT request")
            return
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 and b"\n" in self._received and b"\r" not in self._received:
            self._refuse(400, "lines do not end in CR LF")
        elif (end + 4 if end >= 0 else len(self._received)) > CONNECT_HEAD_BYTES_MAX:
            self._refuse(431, f"request head of {len(self._received)} bytes exceeds {CONNECT_HEAD_BYTES_MAX}")
        elif end >= 0:
            head, rest = self._received[: end + 4], self._received[end + 4 :]
            self._received = b""
            self._take_request(head, rest)

    def _take_request(self, head: bytes, rest: bytes) -> None:
        try:
            request = read_request_head(head)
        except HttpInvalid as error:
            self._refuse(400, str(error))
            return
        target = split_address(request.target)
        if request.method != "CONNECT":
            self._refuse(
                501 if "://" in request.target else 400,
                "this port takes redirected TLS and CONNECT requests only; the HTTP API has its own, by default 8741",
            )
        elif target is None:
            self._refuse(400, f"CONNECT target {request.target[:80]!r} is not host:port")
        else:
            self._peer.name = _name_in(request)
            self._connect_to((target[0].lower().removesuffix("."), target[1]), rest)

    def _connect_to(self, target: Address, rest: bytes) -> None:
        self._connect = target
        if target[0] in self._wiring.hosts or _is_ip_address(target[0]):
            self._stream.send(_ESTABLISHED)
            self._established = True
            self._phase = _HELLO
            self.deadline = self._wiring.poller.now + self._wiring.limits.client_hello_timeout_s
            if rest:
                self._take_hello(rest)
        else:
            self._received += rest
            self._tunnel(Route(host=target[0], port=target[1]))

    def _take_hello(self, data: bytes) -> None:
        received, self._received = self._received, self._received + data
        if self._connect is not None and not received and data[0] != HANDSHAKE_RECORD:
            # Behind a CONNECT anything may be spoken; only TLS is ours to look at.
            self._tunnel(self._route_to(self._connect[0]))
            return
        try:
            hello = None if received else read_whole_hello(data)
            if hello is None:
                self._hello = self._hello or ClientHelloReader()
                hello = self._hello.feed(data)
        except ClientHelloInvalid as error:
            self._refuse_tls(_DECODE_ERROR, str(error))
            return
        if hello is not None:
            self._decide(hello)

    # -- the decision ------------------------------------------------------

    def _decide(self, hello: ClientHello) -> None:
        name = hello.server_name
        if name == CANARY_HOST:
            # lsrunner asks whether the redirect leads here: arriving was the answer.
            self._end()
            return
        listed = name is not None and name in self._wiring.hosts
        offered = hello.protocols
        has_http1, has_http2 = not offered or "http/1.1" in offered, HTTP2 in offered
        if name is not None and listed and (has_http1 or has_http2):
            self._route = route = self._route_to(name)
            if has_http1 and has_http2 and self._wiring.limits.http2 == "prefer":
                self._choose()
            else:
                self._intercept(route, not has_http1)
            return
        if listed:
            self._wiring.logs.warning("connection.unread", host=name, reason=f"the client offers {offered}")
        if self._connect is not None:
            self._tunnel(self._route_to(self._connect[0]))
        elif self._original is not None:
            self._tunnel(self._route_to(name or self._original[0]))
        elif listed:
            self._refuse_tls(_NO_APPLICATION_PROTOCOL, f"{name}: the client offers {offered}, not HTTP")
        else:
            self._refuse_tls(
                _UNRECOGNIZED_NAME, f"server name {name!r} is not on the list, and nothing says where else to go"
            )

    def _route_to(self, host: str) -> Route:
        if self._connect is not None:
            literal = self._connect if _is_ip_address(self._connect[0]) else None
            return _route(host, self._connect[1], literal)
        original = self._original
        return _route(host, original[1] if original else _HTTPS_PORT, original)

    def _choose(self) -> None:
        """Ask the provider first: only what it speaks can be passed on."""
        assert self._route is not None
        self._phase = _Phase.CHOICE
        self._stream.pause()
        self.deadline = self._wiring.poller.now + 4 * self._wiring.limits.connect_timeout_s
        self._wiring.dial_http2(self._route, self)

    def _chosen(self, upstream: Stream | None) -> None:
        """`upstream` None: there is none. The client is told why when it asks, over HTTP/1.1."""
        assert self._route is not None
        self._stream.resume()
        is_http2 = upstream is not None and upstream.protocol == HTTP2
        if upstream is not None and is_http2:
            self._upstream = upstream
        elif upstream is not None:
            self._wiring.pool.put(self._route, upstream)
        self._intercept(self._route, is_http2)

    def _intercept(self, route: Route, http2: bool) -> None:
        self._http2 = http2
        context = self._arrivals.server_context(route.host, http2)
        self._stream.start_tls(context, server_side=True, received=self._received)
        self._received = b""
        self._phase = _HANDSHAKE
        wiring = self._wiring
        self.deadline = wiring.poller.now + wiring.limits.handshake_timeout_s
        self._shake_hands(route)

    def _on_handshake(self) -> None:
        route = self._route
        assert route is not None
        size = self._stream.receive_handshake()
        if size > 0:
            self._shake_hands(route)
        elif size != NOTHING_YET:
            self._wiring.logs.info("handshake.abandoned", host=route.host)
            self._arrivals.client_left_silently(route.host)
            self._end()

    def _shake_hands(self, route: Route) -> None:
        try:
            if not self._stream.handshake():
                return
        except TlsFailed as error:
            self._handshake_failed(route.host, str(error))
            return
        self._phase = _OVER
        upstream, self._upstream = self._upstream, None
        relay: Relay | Http2Relay
        if self._http2:
            relay = self._http2_relay(route, upstream)
        else:
            relay = Relay(self._stream, route, self._peer, self._wiring, self._arrivals)
        self._arrivals.arrival_became(self, relay)
        relay.receive_early()

    def _http2_relay(self, route: Route, upstream: Stream | None) -> "Http2Relay":
        # h2 and its kin: 2 MiB and 20 ms that few processes ever need.
        from services.mitm.http2_relay import Http2Relay

        return Http2Relay(self._stream, route, self._peer, self._wiring, self._arrivals, upstream)

    def _handshake_failed(self, host: str, reason: str) -> None:
        if any(alert in reason for alert in _DISTRUST):
            self._arrivals.client_distrusts(host, reason)
        self._wiring.logs.warning("handshake.failed", host=host, reason=reason)
        self._end()

    # -- a tunnel ----------------------------------------------------------

    def _tunnel(self, route: Route) -> None:
        self._route = route
        self._phase = _Phase.DIAL
        self._stream.pause()
        self.deadline = self._wiring.poller.now + 4 * self._wiring.limits.connect_timeout_s
        self._wiring.dial_tunnel(route, self)

    def upstream_ready(self, upstream: Stream) -> bool:
        """The tunnel's other end is there, or the provider's; False when the client has gone."""
        if self._phase is _Phase.CHOICE:
            self._chosen(upstream)
            return True
        if self._phase is not _Phase.DIAL:
            return False
        assert self._route is not None
        if self._connect is not None and not self._established:
            self._stream.send(_ESTABLISHED)
        self._phase = _OVER
        poller = self._wiring.poller
        started, host = poller.now, self._route.host
        peer, parts, arrivals = self._peer, self._wiring.observer_parts, self._arrivals

        def on_end(tunnel: Tunnel) -> None:
            record = tunnel_record(host, peer.client(), started, poller.now, tunnel.up, tunnel.down, parts)
            parts.outbox.finish(None, [record])
            arrivals.tunnel_ended(tunnel)

        tunnel = Tunnel(
            self._stream,
            upstream,
            self._wiring.scratch,
            idle_timeout_s=self._wiring.limits.idle_timeout_s,
            now=lambda: poller.now,
            on_end=on_end,
        )
        self._arrivals.arrival_became(self, tunnel)
        if self._received:
            tunnel.send_up(self._received)
        self._stream.resume()
        return True

    def upstream_failed(self, failure: UpstreamFailed) -> None:
        """The other end cannot be reached."""
        if self._phase is _Phase.CHOICE:
            self._chosen(None)
        if self._phase is not _Phase.DIAL:
            return
        self._wiring.logs.warning("tunnel.failed", reason=str(failure))
        if self._connect is not None and not self._established:
            self._phase = _FIRST_BYTES
            self._refuse(504 if failure.kind == "timeout" else 502, str(failure), f"upstream_{failure.kind}")
        else:
            # A client that dialled the address itself sees what it would have seen: no connection.
            self._stream.abort()
            self._over()

    # -- the end -----------------------------------------------------------

    def _refuse(self, status: int, reason: str, error_type: str = "request_invalid") -> None:
        self._wiring.logs.warning("arrival.refused", status=status, reason=reason)
        self._stream.send(refusal(status, error_type, reason))
        self._linger()

    def _refuse_tls(self, alert: int, reason: str) -> None:
        self._wiring.logs.warning("arrival.refused", reason=reason)
        self._stream.send(b"\x15\x03\x03\x00\x02\x02" + bytes((alert,)))  # fatal (2), in a plaintext record
        self._linger()

    def _linger(self) -> None:
        self._phase = _Phase.LINGER
        self.deadline = self._wiring.poller.now + LINGER_S
        self._stream.shut_writing()
        self._stream.resume()

    def _end(self) -> None:
        self._stream.close()
        self._over()

    def _over(self) -> None:
        if self._upstream is not None:
            self._wiring.pool.discard(self._upstream)
            self._upstream = None
        if self._phase is not _OVER:
            self._phase = _OVER
            self._arrivals.arrival_became(self, None)

    def expire(self) -> None:
        """What was awaited has not come until the deadline."""
        if self._phase is not _Phase.LINGER:
            self._wiring.logs.info("arrival.expired", phase=self._phase.value)
        self._end()

    def stop(self) -> None:
        """The process stops."""
        self._end()

    def fail(self) -> None:
        """A step of ours has failed."""
        self._stream.abort()
        self._over()


def _name_in(request: RequestHead) -> ClientName | None:
    """Return what the proxy credentials (RFC 7617) call the client: label and, from `wiremeter run`, the run."""
    scheme, _, credentials = request.field(b"proxy-authorization").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return client_name(base64.b64decode(credentials, validate=True).decode())
    except (binascii.Error, UnicodeDecodeError):
        return None


def _is_ip_address(text: str) -> bool:
    if ":" not in text and not text[-1:].isdigit():
        return False  # as of nearly all names: asking `ipaddress` costs two exceptions
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
