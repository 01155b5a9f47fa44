"""HTTP/2 connections pass stream by stream, and end as upstream and client end them."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import services.mitm.server as server_module
from services.wire.http2 import STREAMS_MAX
from tests.support.eventually import eventually
from tests.support.http2 import (
    CANCEL,
    EVENT_STREAM,
    EVENTS,
    INTERNAL_ERROR,
    NO_ERROR,
    REFUSED_STREAM,
    REQUEST,
    Http2Peer,
    serving,
    speaking,
)
from tests.support.mitm import Mitm, get, mitm, response
from tests.support.raw_upstream import answering
from tests.support.tls_end import CLOSE_NOTIFY, reset

# -- how a connection ends -----------------------------------------------------


def test_upstream_goes_away_and_what_is_under_way_ends_first(proxy: Mitm) -> None:
    """A request that it has not looked at may be sent again, and the client is told so."""

    def script(peer: Http2Peer) -> None:
        first = peer.wait_stream()
        peer.wait_stream()
        peer.go_away(first.number, NO_ERROR, b"maintenance")
        assert begun.wait(10)
        peer.respond(first.number, body=b"whole")
        assert peer.wait_gone() == CLOSE_NOTIFY

    begun = threading.Event()
    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        first, second = client.request(), client.request()
        client.wait(lambda: client.gone_away)
        assert client.gone_away == [(first.number, NO_ERROR, b"maintenance")]
        client.wait_over(second)
        assert second.reset == REFUSED_STREAM
        third = client.request()
        client.wait_over(third)
        assert third.reset == REFUSED_STREAM
        begun.set()
        client.wait_over(first)
        assert first.ended and first.body == b"whole"
        assert client.wait_gone() == CLOSE_NOTIFY


def test_upstream_may_go_away_in_two_steps(proxy: Mitm) -> None:
    """After the first, which refuses nothing, requests that were on their way still count (RFC 9113 §6.8)."""

    def script(peer: Http2Peer) -> None:
        peer.go_away(2**31 - 1)
        stream = peer.wait_stream()
        peer.go_away(stream.number)
        peer.respond(stream.number, body=b"whole")
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request()
        client.wait_over(stream)
        assert stream.ended and stream.body == b"whole"
        assert client.wait_gone() == CLOSE_NOTIFY
        assert client.gone_away[0] == (2**31 - 1, NO_ERROR, b"")
        assert client.gone_away[-1][0] == stream.number


def test_a_client_that_goes_away_gets_what_is_under_way(proxy: Mitm) -> None:
    """Upstream is told."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.wait(lambda: peer.gone_away)
        assert peer.gone_away == [(0, NO_ERROR, b"bye")]
        peer.respond(stream.number, body=b"whole")
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request()
        client.go_away(0, NO_ERROR, b"bye")
        client.wait_over(stream)
        assert stream.ended and stream.body == b"whole"
        assert client.wait_gone() == CLOSE_NOTIFY


@pytest.mark.parametrize("leave", ["close", "drop", "reset"])
def test_upstream_that_leaves_in_the_middle_breaks_its_streams(proxy: Mitm, leave: str) -> None:
    """A response that has begun is reset; a request without an answer gets 502 with the reason."""

    def script(peer: Http2Peer) -> None:
        first, _ = peer.wait_stream(), peer.wait_stream()
        peer.library.send_headers(first.number, [(b":status", b"200"), EVENT_STREAM])
        peer.send_body(first.number, EVENTS[0], end=False)
        assert arrived.wait(10)
        getattr(peer.link, leave)()

    arrived = threading.Event()
    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        first, second = client.request(body=REQUEST), client.request(body=REQUEST)
        client.wait(lambda: len(first.body) == len(EVENTS[0]))
        arrived.set()
        client.wait_over(first, second)
        assert (first.ended, first.reset) == (False, INTERNAL_ERROR)
        assert second.status == b"502" and b"closed the connection" in second.body
        assert second.field(b"x-wiremeter-error") == b"upstream_closed"
        assert client.wait_gone() == CLOSE_NOTIFY
        assert client.gone_away[-1][1] == NO_ERROR
    outcomes = {(record["outcome"], record["aborted_by"]) for record in proxy.outbox.of(host, 2)}
    assert outcomes == {("truncated", "upstream"), ("error", None)}


def test_a_client_that_leaves_has_aborted_its_exchanges(proxy: Mitm) -> None:
    """Upstream's streams are reset, and its connection closed."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.library.send_headers(stream.number, [(b":status", b"200"), EVENT_STREAM])
        peer.send_body(stream.number, EVENTS[0], end=False)
        assert peer.wait_gone() == CLOSE_NOTIFY
        assert stream.reset == CANCEL

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(body=REQUEST)
        client.wait(lambda: stream.body)
        client.link.reset()
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "client")
    eventually("the relay is over", lambda: not proxy.http2_relays(host))


def test_the_end_of_the_process_breaks_what_is_under_way(tmp_path: Path) -> None:
    """After the time for a gentle end."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.library.send_headers(stream.number, [(b":status", b"200"), EVENT_STREAM])
        peer.send_body(stream.number, EVENTS[0], end=False)
        peer.wait_gone()

    before, server_module.DRAIN_S = server_module.DRAIN_S, 0.2
    try:
        with mitm(tmp_path) as proxy:
            host = proxy.http2_upstream(speaking(script))
            client = proxy.http2_client(host)
            stream = client.request(body=REQUEST)
            client.wait(lambda: stream.body)
            idle = proxy.http2_client(host)
            idle.pump()
    finally:
        server_module.DRAIN_S = before
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "proxy")
    assert idle.wait_gone() == CLOSE_NOTIFY and idle.gone_away[0][1] == NO_ERROR
    client.link.sock.close()
    idle.link.sock.close()


# -- our own answers -----------------------------------------------------------


def test_an_upstream_without_http_2_is_a_502_with_the_reason(proxy: Mitm) -> None:
    """Nothing is translated."""
    host = proxy.upstream(lambda link: link.wait_gone() and None)
    with proxy.http2_client(host) as client:
        streams = [client.request(body=REQUEST), client.request(method=b"HEAD"), client.request(end=False)]
        client.wait_over(*streams)
        assert [stream.status for stream in streams] == [b"502"] * 3
        assert b"does not speak HTTP/2" in streams[0].body and streams[1].body == b""
        assert streams[0].field(b"x-wiremeter-error") == b"upstream_http2"
        assert client.wait_gone() == CLOSE_NOTIFY
    records = proxy.outbox.of(host, 3)
    assert sorted(record.get("outcome", "counted") for record in records) == ["counted", "error", "error"]


def test_an_upstream_that_cannot_be_reached_is_a_502_and_asked_again(proxy: Mitm) -> None:
    """The connection stays: the next request may find it."""
    host = proxy.http2_upstream(serving(lambda peer, stream: peer.respond(stream.number)))
    address = proxy.upstream_map[host]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        proxy.upstream_map[host] = closed.getsockname()
    with proxy.http2_client(host) as client:
        stream = client.request()
        client.wait_over(stream)
        assert stream.status == b"502" and b"ECONNREFUSED" in stream.body
        proxy.upstream_map[host] = address
        stream = client.request()
        client.wait_over(stream)
        assert stream.status == b"200"


def test_connect_within_http_2_is_refused(proxy: Mitm) -> None:
    """RFC 8441 is not offered; who tries all the same is told at once, and the connection lives."""
    host = proxy.http2_upstream(serving(lambda peer, stream: peer.respond(stream.number)))
    with proxy.http2_client(host) as client:
        stream = client.request((b":protocol", b"websocket"), method=b"CONNECT", end=False)
        client.wait_over(stream)
        assert stream.status == b"501"
        assert not client.library.remote_settings.enable_connect_protocol
        stream = client.request()
        client.wait_over(stream)
        assert stream.status == b"200"


def test_one_stream_too_many_is_refused(proxy: Mitm) -> None:
    """The others are not."""

    def script(peer: Http2Peer) -> None:
        peer.wait(lambda: len(peer.streams) == STREAMS_MAX)
        for number in list(peer.streams):
            peer.respond(number)
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        client.wait(lambda: client.library.remote_settings.max_concurrent_streams == STREAMS_MAX)
        client.library.remote_settings = type(client.library.remote_settings)(client=False)
        streams = [client.request(method=b"GET") for _ in range(STREAMS_MAX + 1)]
        client.wait_over(*streams)
        assert [stream.reset for stream in streams] == [None] * STREAMS_MAX + [REFUSED_STREAM]


def test_nonsense_from_the_client_ends_its_connection(proxy: Mitm) -> None:
    """With GOAWAY, and a line in the log."""
    context = proxy.context()
    context.set_alpn_protocols(["h2"])
    with proxy.client("h0.upstream.test", context=context) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"\x07\x00\x00\x00\x00\x00" in client.read_to_end()
        assert client.ending == CLOSE_NOTIFY
    assert "preface" in proxy.logged("client.refused")[-1]["reason"]


def test_nonsense_from_upstream_is_a_502(proxy: Mitm) -> None:
    """Where nothing of the response has come; else the stream is reset."""

    def script(peer: Http2Peer) -> None:
        first, _ = peer.wait_stream(), peer.wait_stream()
        peer.library.send_headers(first.number, [(b":status", b"200")])
        peer.flush()
        peer.link.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        first, second = client.request(), client.request()
        client.wait_over(first, second)
        assert first.reset == INTERNAL_ERROR
        assert second.status == b"502" and b"answered nonsense" in second.body
        assert client.wait_gone() == CLOSE_NOTIFY


@pytest.mark.parametrize("what", ["resets", "pings", "settings"])
def test_a_flood_ends_the_connection(proxy: Mitm, what: str) -> None:
    """Streams that are opened and reset at once (CVE-2023-44487), and frames that carry nothing."""

    def script(peer: Http2Peer) -> None:
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        client.pump()
        try:
            for _ in range(30_000):
                if what == "resets":
                    stream = client.request(method=b"GET")
                    client.reset(stream.number, CANCEL)
                elif what == "pings":
                    client.link.send(b"\0\0\x08\6\0\0\0\0\0" + bytes(8))
                else:
                    client.link.send(b"\0\0\0\4\0\0\0\0\0")
        except OSError:
            pass
        else:
            while not client.gone_away and client.pump():
                pass
    eventually("it is refused", lambda: [line for line in proxy.logged("client.refused") if line["host"] == host])
    assert len(proxy.last_upstream.links) <= 1


# -- the choice ----------------------------------------------------------------


@pytest.fixture(scope="module")
def preferring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mitm]:
    """A mitm that takes HTTP/2 where it can have it."""
    with mitm(tmp_path_factory.mktemp("mitm"), http2="prefer") as running:
        yield running


def test_http_1_1_is_taken_where_both_are_offered(proxy: Mitm) -> None:
    """It is what the observer costs least on."""
    host = proxy.upstream(answering(response()))
    context = proxy.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with proxy.client(host, context=context) as client:
        assert client.tls.selected_alpn_protocol() == "http/1.1"


def test_http_2_can_be_preferred(preferring: Mitm) -> None:
    """The connection to upstream is made first, and used."""
    host = preferring.http2_upstream(serving(lambda peer, stream: peer.respond(stream.number, body=b"x")))
    with preferring.http2_client(host, "http/1.1", "h2") as client:
        stream = client.request()
        client.wait_over(stream)
        assert stream.body == b"x"
    assert preferring.last_upstream.accepted == 1


def test_an_upstream_without_http_2_gets_http_1_1_from_a_client_that_can(preferring: Mitm) -> None:
    """Over the connection that asked it."""
    host = preferring.upstream(answering(response(body=b"x")))
    context = preferring.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with preferring.client(host, context=context) as client:
        assert client.tls.selected_alpn_protocol() == "http/1.1"
        client.send(get("h"))
        assert client.read(len(response(body=b"x"))) == response(body=b"x")
    assert preferring.last_upstream.accepted == 1


def test_an_upstream_that_cannot_be_reached_is_told_over_http_1_1(preferring: Mitm) -> None:
    """With the reason, as ever."""
    host = "gone.upstream.test"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        preferring.upstream_map[host] = closed.getsockname()
    context = preferring.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with preferring.client(host, context=context) as client:
        client.send(get("h"))
        assert client.read_head().startswith(b"HTTP/1.1 502 ")


def test_a_client_that_leaves_during_the_choice_leaves_nothing_open(preferring: Mitm) -> None:
    """The connection to upstream is closed again."""
    reached = threading.Event()

    def never(sock: socket.socket) -> None:
        reached.set()
        while sock.recv(4096):
            pass

    host = preferring.upstream(answering(response()), in_clear=never)
    context = preferring.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    with preferring.dial() as sock:
        sock.sendall(outgoing.read())
        assert reached.wait(10)
        reset(sock)
    eventually("the arrival is over", lambda: not preferring.call(lambda: preferring.server._live))
