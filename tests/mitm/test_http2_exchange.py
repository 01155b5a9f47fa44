"""What passes on a stream of HTTP/2, what is recorded of it, and how it ends."""

import gzip
import hashlib
import re
import threading
from typing import Any

import pytest
from hpack.struct import NeverIndexedHeaderTuple
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.eventually import eventually
from tests.support.http2 import (
    CANCEL,
    EVENT_STREAM,
    EVENTS,
    MIB,
    NO_ERROR,
    REQUEST,
    Http2Peer,
    Stream,
    noise,
    serving,
    speaking,
)
from tests.support.mitm import Mitm
from tests.support.protobuf import grpc_message, message
from tests.support.splits import cut_at
from tests.support.tls_end import CLOSE_NOTIFY, TlsEnd

JSON = (b"content-type", b"application/json")

# -- what passes ---------------------------------------------------------------


def test_fields_pass_as_they_came(proxy: Mitm) -> None:
    """Their order, duplicates, pseudo-header fields, and which of them must never be indexed."""
    asked = [
        (b"b", b"1"),
        NeverIndexedHeaderTuple(b"authorization", b"x"),
        (b"b", b"3"),
        (b"cookie", b"a"),
        (b"b", b""),
    ]
    answered = [(b"x-a", b"1"), NeverIndexedHeaderTuple(b"set-cookie", b"x"), (b"x-\x7e", b"\xe4"), (b"x-a", b"2")]
    seen: list[Stream] = []

    def answer(peer: Http2Peer, stream: Stream) -> None:
        seen.append(stream)
        peer.respond(stream.number, *answered)

    host = proxy.http2_upstream(serving(answer))
    with proxy.http2_client(host) as client:
        stream = client.request(*asked, path=b"/a?b=%00", host=b"other")
        client.wait_over(stream)
    pseudo = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"other"), (b":path", b"/a?b=%00")]
    assert seen[0].heads == [[*pseudo, *asked]]
    assert stream.heads == [[(b":status", b"200"), *answered]]
    for head in (seen[0].heads[0], stream.heads[0]):
        secret = [field[0] for field in head if isinstance(field, NeverIndexedHeaderTuple)]
        assert len(secret) == 1 and secret[0] in (b"authorization", b"set-cookie")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 3_000), max_size=8),
    piece_bytes=st.integers(1, 16_384),
)
def test_content_passes_unchanged_however_it_is_cut(
    proxy: Mitm, sizes: list[tuple[int, int]], cuts: list[int], piece_bytes: int
) -> None:
    """Both ways, on several streams at once, in frames and TLS records of any size."""

    def answer(peer: Http2Peer, stream: Stream) -> None:
        number = int(stream.field(b":path")[1:])
        assert bytes(stream.body) == noise(sizes[number][0], number)
        cut_sends(peer)
        peer.library.send_headers(stream.number, [(b":status", b"200")], end_stream=not sizes[number][1])
        peer.send_body(stream.number, noise(sizes[number][1], -number - 1), piece_bytes=max(64, piece_bytes))
        peer.flush()

    def cut_sends(peer: Http2Peer) -> None:
        send = TlsEnd.send
        peer.link.send = lambda *pieces: send(peer.link, *(p for piece in pieces for p in cut_at(piece, cuts)))  # type: ignore[method-assign]

    host = proxy.http2_upstream(serving(answer))
    with proxy.http2_client(host) as client:
        cut_sends(client)
        streams = []
        for number, (up, _) in enumerate(sizes):
            streams.append(client.request(path=b"/%d" % number, end=not up))
        for number, (up, _) in enumerate(sizes):
            client.send_body(streams[number].number, noise(up, number), piece_bytes=max(64, piece_bytes))
        client.wait_over(*streams)
        for number, (_, down) in enumerate(sizes):
            assert streams[number].ended and bytes(streams[number].body) == noise(down, -number - 1)
    assert len(proxy.outbox.of(host, len(sizes))) == len(sizes)


def test_a_hundred_streams_share_a_connection(proxy: Mitm) -> None:
    """Each gets its own answer, and they go over one connection to upstream."""

    def answer(peer: Http2Peer, stream: Stream) -> None:
        peer.respond(stream.number, JSON, body=bytes(stream.body)[::-1])

    host = proxy.http2_upstream(serving(answer))
    with proxy.http2_client(host) as client:
        streams = [client.request(body=noise(2_000, number)) for number in range(100)]
        client.wait_over(*streams)
        assert [bytes(stream.body)[::-1] for stream in streams] == [noise(2_000, number) for number in range(100)]
    assert len(proxy.last_upstream.links) == 1
    records = proxy.outbox.of(host, 100)
    assert [record["bytes"] for record in records] == [{"up": 2_000, "down": 2_000}] * 100


def test_large_bodies_pass_both_ways(proxy: Mitm) -> None:
    """Much more than any window."""
    body = noise(8 * MIB)

    def answer(peer: Http2Peer, stream: Stream) -> None:
        assert hashlib.sha256(stream.body).digest() == hashlib.sha256(body).digest()
        peer.respond(stream.number, body=body)

    host = proxy.http2_upstream(serving(answer))
    with proxy.http2_client(host) as client:
        stream = client.request(body=body)
        client.wait_over(stream)
        assert stream.ended and stream.body == body
    assert proxy.outbox.of(host)[0]["bytes"] == {"up": 8 * MIB, "down": 8 * MIB}


def test_trailers_and_interim_responses_pass(proxy: Mitm) -> None:
    """In both directions and in their places, as gRPC needs them."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.library.send_headers(stream.number, [(b":status", b"103"), (b"link", b"</a>")])
        peer.flush()
        peer.wait(lambda: stream.ended)
        assert stream.heads[1] == [(b"x-t", b"up")] and stream.body == b"abc"
        peer.library.send_headers(stream.number, [(b":status", b"200"), (b"content-type", b"application/grpc")])
        peer.send_body(stream.number, b"\0\0\0\0\1x", end=False)
        peer.send_trailers(stream.number, (b"grpc-status", b"0"), (b"grpc-message", b""))
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(
            (b"content-type", b"application/grpc+proto"),
            (b"te", b"trailers"),
            path=b"/a.b.C/Do",
            body=b"abc",
            end=False,
        )
        client.wait(lambda: stream.heads)
        client.send_trailers(stream.number, (b"x-t", b"up"))
        client.wait_over(stream)
        assert stream.ended and stream.body == b"\0\0\0\0\1x"
        assert stream.heads == [
            [(b":status", b"103"), (b"link", b"</a>")],
            [(b":status", b"200"), (b"content-type", b"application/grpc")],
            [(b"grpc-status", b"0"), (b"grpc-message", b"")],
        ]
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["reason"]) == ("unreadable", "gRPC messages of this call are not read")


GRPC = (b"content-type", b"application/grpc")
GENERATE = b"/google.ai.generativelanguage.v1beta.GenerativeService/StreamGenerateContent"
ASKED = grpc_message(message({1: "models/gemini-x"}))
COUNTED = grpc_message(message({3: {1: 3, 2: 1, 3: 4}}))


@pytest.mark.parametrize(
    ("end", "outcome", "usage"),
    [
        ("status 0", "ok", {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}),
        ("status 14", "error", {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}),
        ("status 7 alone", "error", {}),
        ("no status", "truncated", {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}),
        ("reset", "truncated", {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}),
        ("client", "truncated", {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}),
    ],
)
def test_a_grpc_call_ends_as_its_trailers_say(proxy: Mitm, end: str, outcome: str, usage: dict[str, int]) -> None:
    """Or it breaks off: the counts seen are a lower bound."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.wait(lambda: stream.ended)
        status = (b"grpc-status", b"".join(re.findall(rb"\d+", end.encode())))
        if end.endswith("alone"):
            peer.library.send_headers(stream.number, [(b":status", b"200"), GRPC, status], end_stream=True)
            peer.flush()
        else:
            peer.library.send_headers(stream.number, [(b":status", b"200"), GRPC])
            peer.send_body(stream.number, COUNTED, end=end == "no status")
        if end in ("status 0", "status 14"):
            peer.send_trailers(stream.number, status)
        elif end == "reset":
            peer.reset(stream.number, 0xB)
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(GRPC, path=GENERATE, body=ASKED)
        if end == "client":
            client.wait(lambda: stream.body)
            client.reset(stream.number, CANCEL)
        else:
            client.wait_over(stream)
        assert stream.body == (b"" if end.endswith("alone") else COUNTED)
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["usage"], record["http_status"]) == (outcome, usage, 200)
    assert record["error_type"] == {"status 14": "UNAVAILABLE", "status 7 alone": "PERMISSION_DENIED"}.get(end)
    assert (record["request_model"], record["dialect"]) == ("gemini-x", "google-gemini-grpc")
    assert record["aborted_by"] == ({"client": "client"}.get(end, "upstream") if outcome == "truncated" else None)


def test_messages_pass_while_the_request_is_open(proxy: Mitm) -> None:
    """A conversation in both directions on one stream."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.library.send_headers(stream.number, [(b":status", b"200")])
        for number in range(20):
            peer.wait(lambda n=number: len(stream.body) == n + 1)
            peer.send_body(stream.number, b"b", end=False)
        peer.wait(lambda: stream.ended)
        peer.library.end_stream(stream.number)
        peer.flush()
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(end=False)
        for number in range(20):
            client.send_body(stream.number, b"a", end=False)
            client.wait(lambda n=number: len(stream.body) == n + 1)
        client.library.end_stream(stream.number)
        client.flush()
        client.wait_over(stream)
        assert stream.ended


def test_the_answer_to_head_has_no_body(proxy: Mitm) -> None:
    """Its content-length speaks of what GET would get."""
    host = proxy.http2_upstream(serving(lambda peer, stream: peer.respond(stream.number, (b"content-length", b"99"))))
    with proxy.http2_client(host) as client:
        for method in (b"HEAD", b"HEAD"):
            stream = client.request(method=method)
            client.wait_over(stream)
            assert stream.ended and stream.field(b"content-length") == b"99"


# -- what is recorded ----------------------------------------------------------


@pytest.mark.parametrize("coded", [False, True])
def test_a_record_says_what_it_was(proxy: Mitm, coded: bool) -> None:
    """As over HTTP/1.1, with content codings and in any cut."""
    whole = b"".join(EVENTS)
    body = gzip.compress(whole) if coded else whole
    fields = [EVENT_STREAM, *([(b"content-encoding", b"gzip")] if coded else [])]

    def answer(peer: Http2Peer, stream: Stream) -> None:
        peer.library.send_headers(stream.number, [(b":status", b"200"), *fields])
        peer.send_body(stream.number, body, piece_bytes=7)

    host = proxy.http2_upstream(serving(answer))
    with proxy.http2_client(host) as client:
        streams = [client.request(body=REQUEST) for _ in range(3)]
        client.wait_over(*streams)
        assert [stream.body for stream in streams] == [body] * 3
    for record in proxy.outbox.of(host, 3):
        expected = {
            "dialect": "anthropic-messages",
            "request_model": "claude-x",
            "model": "claude-x-2",
            "outcome": "ok",
            "http_status": 200,
            "bytes": {"up": len(REQUEST), "down": len(body)},
        }
        assert {name: record[name] for name in expected} == expected
        usage = {"input_tokens": 125, "cache_read_input_tokens": 100, "output_tokens": 9}
        assert usage.items() <= record["usage"].items()


def test_what_is_journaled_is_journaled_before_the_bytes_leave(proxy: Mitm) -> None:
    """The draft before the request, changed counts before the piece that carries them, the end before the last byte."""
    steps = threading.Semaphore(0)

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.wait(lambda: stream.ended)
        log.append("request arrived")
        peer.library.send_headers(stream.number, [(b":status", b"200"), EVENT_STREAM])
        for event in EVENTS:
            assert steps.acquire(timeout=10)
            peer.send_body(stream.number, event, end=event is EVENTS[-1])
        peer.wait_gone()

    log: list[str] = []
    host = proxy.http2_upstream(speaking(script))
    proxy.outbox.on_write = lambda kind, _: log.append(kind)
    with proxy.http2_client(host) as client:
        stream = client.request(body=REQUEST)
        done = 0
        for event in EVENTS:
            steps.release()
            done += len(event)
            client.wait(lambda n=done: len(stream.body) == n)
            log.append("piece arrived")
        client.wait_over(stream)
        proxy.outbox.of(host)
    proxy.outbox.on_write = lambda kind, content: None
    piece = "piece arrived"
    assert log == ["start", "progress", "request arrived", "progress", piece, piece, "progress", piece, "finish", piece]


def test_an_observer_that_fails_leaves_the_traffic_alone(proxy: Mitm) -> None:
    """Byte for byte; the record says so."""

    def answer(peer: Http2Peer, stream: Stream) -> None:
        peer.respond(stream.number, EVENT_STREAM, body=b"".join(EVENTS))

    def fail(kind: str, content: Any) -> None:
        if kind == "progress":
            raise OSError("disk")

    proxy.outbox.on_write = fail
    host = proxy.http2_upstream(serving(answer))
    with proxy.http2_client(host) as client:
        stream = client.request(body=REQUEST)
        client.wait_over(stream)
        assert stream.ended and stream.body == b"".join(EVENTS)
    assert proxy.outbox.of(host)[0]["outcome"] == "unreadable"
    proxy.outbox.on_write = lambda kind, content: None
    errors = [line for line in proxy._sink.lines if line["level"] == "error"]
    assert {line["event"] for line in errors} == {"observation.failed"}
    proxy._sink.lines = [line for line in proxy._sink.lines if line not in errors]


# -- how a stream ends ---------------------------------------------------------


def test_a_reset_by_the_client_reaches_upstream_with_its_code(proxy: Mitm) -> None:
    """And the record says who it was, with the last counts."""
    codes: list[int | None] = []

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.wait(lambda: stream.ended)
        peer.library.send_headers(stream.number, [(b":status", b"200"), EVENT_STREAM])
        peer.send_body(stream.number, EVENTS[0], end=False)
        peer.wait(lambda: stream.reset is not None)
        codes.append(stream.reset)
        other = peer.wait_stream()
        peer.respond(other.number)
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(body=REQUEST)
        client.wait(lambda: stream.body)
        client.reset(stream.number, CANCEL)
        other = client.request(path=b"/other")
        client.wait_over(other)
        assert other.ended
    assert codes == [CANCEL]
    [record, _] = proxy.outbox.of(host, 2)
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "client")
    assert record["usage"]["input_tokens"] == 125


@pytest.mark.parametrize("begun", [False, True])
def test_a_reset_by_upstream_reaches_the_client_with_its_code(proxy: Mitm, begun: bool) -> None:
    """Behind what came before it; other streams do not notice."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        if begun:
            peer.library.send_headers(stream.number, [(b":status", b"200"), EVENT_STREAM])
            peer.send_body(stream.number, EVENTS[0], end=False)
        peer.reset(stream.number, 0xB)
        peer.respond(peer.wait_stream().number)
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(body=REQUEST)
        client.wait_over(stream)
        assert (stream.ended, stream.reset) == (False, 0xB)
        assert stream.body == (EVENTS[0] if begun else b"")
        other = client.request()
        client.wait_over(other)
        assert other.ended
    record = proxy.outbox.of(host, 2)[0]
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "upstream")
    assert record["usage"].get("input_tokens") == (125 if begun else None)


def test_an_answer_may_come_before_the_request_is_whole(proxy: Mitm) -> None:
    """Upstream then says NO_ERROR: the rest is not wanted (RFC 9113 §8.1)."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.respond(stream.number, body=b"too large", status=b"413")
        peer.reset(stream.number, NO_ERROR)
        peer.respond(peer.wait_stream().number)
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(end=False)
        client.wait(lambda: stream.reset is not None)
        assert (stream.ended, stream.reset, stream.body) == (True, NO_ERROR, b"too large")
        other = client.request()
        client.wait_over(other)
        assert other.ended
    assert proxy.outbox.of(host, 2)[0]["http_status"] == 413


# -- time ----------------------------------------------------------------------


def test_a_response_that_does_not_come_is_a_504(impatient: Mitm) -> None:
    """After response_timeout_s; the connection lives."""

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.wait(lambda: stream.reset is not None)
        assert stream.reset == CANCEL
        peer.respond(peer.wait_stream().number)
        peer.wait_gone()

    host = impatient.http2_upstream(speaking(script))
    with impatient.http2_client(host) as client:
        stream = client.request()
        client.wait_over(stream)
        assert stream.status == b"504" and b"no response within" in stream.body
        stream = client.request()
        client.wait_over(stream)
        assert stream.status == b"200"


@pytest.mark.parametrize("who", ["client", "upstream", "request"])
def test_what_does_not_move_ends(impatient: Mitm, who: str) -> None:
    """After idle_timeout_s, and the record says whose turn it was."""
    body = b": nothing new\n\n" * 70_000

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        if who != "request":
            peer.library.send_headers(stream.number, [(b":status", b"200"), EVENT_STREAM])
            size = peer.library.local_flow_control_window(stream.number)
            while who == "client" and size:
                piece = min(size, 16_384)
                peer.library.send_data(stream.number, body[:piece])
                size -= piece
            peer.flush()
        peer.wait(lambda: stream.reset is not None)
        peer.wait_gone()

    host = impatient.http2_upstream(speaking(script))
    with impatient.http2_client(host) as client:
        stream = client.request(end=who != "request", path=b"/v1/messages")
        client.stalled.add(stream.number)
        client.wait_over(stream)
        if who == "request":
            assert stream.status == b"408"
        else:
            assert stream.reset == CANCEL
            assert impatient.outbox.of(host)[0]["aborted_by"] == who


def test_an_idle_connection_is_closed_gently(impatient: Mitm) -> None:
    """After keep_alive_timeout_s; one whose preface does not come, after head_timeout_s."""
    host = impatient.http2_upstream(serving(lambda peer, stream: peer.respond(stream.number)))
    with impatient.http2_client(host) as client:
        stream = client.request()
        client.wait_over(stream)
        assert client.wait_gone() == CLOSE_NOTIFY
        assert client.gone_away == [(stream.number, NO_ERROR, b"")]
    context = impatient.context()
    context.set_alpn_protocols(["h2"])
    with impatient.client(host, context=context) as silent:
        assert silent.wait_gone() == CLOSE_NOTIFY


def test_a_client_that_leaves_without_a_byte_is_counted(proxy: Mitm) -> None:
    """It may not trust us."""
    context = proxy.context()
    context.set_alpn_protocols(["h2"])
    proxy.client("silent.upstream.test", context=context).close()
    eventually("it is counted", lambda: any("silent.upstream.test" in m.detail for m in proxy.server.missing()))
