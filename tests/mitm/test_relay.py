"""Exchanges pass byte for byte, and end as upstream and client end them."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.events.exchange import Client
from services.mitm.relay import AHEAD_BYTES_MAX, Relay
from services.mitm.stream import BACKLOG_BYTES_MAX
from services.runtime.logs import Logs
from tests.support.eventually import eventually
from tests.support.mitm import Mitm, get, post, response
from tests.support.observing import peer_like
from tests.support.raw_upstream import Script, answering, server_context
from tests.support.splits import cut_at
from tests.support.stream_bench import Bench
from tests.support.tls_end import CLOSE_NOTIFY, RESET, WAIT_S, TlsEnd

MIB = 1024 * 1024
# What one read may bring, and its TLS framing.
READ_BYTES = 90 * 1024
# Each ends by itself: the connection can be used again behind it.
RESPONSES = {
    "length": response(body=b"hello"),
    "empty": response(),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    "chunk extensions and trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nTrailer: x\r\n\r\n"
    b'5;a=b;c="d;e"\r\nhello\r\n00A\r\n0123456789\r\n0;last\r\nx: y\r\nz: \xe4\r\n\r\n',
    "100": b"HTTP/1.1 100 Continue\r\n\r\n" + response(body=b"on"),
    "103 twice": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2 + response(body=b"on"),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304 with a length": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\n\r\n",
    "error": response("500 Internal Server Error", b'{"error": {}}', "content-type: application/json"),
    "no reason phrase": b"HTTP/1.1 200\r\nContent-Length:   2  \r\nX-Odd:\t\x80\xff\r\n\r\nhi",
    "events": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"f\r\nevent: message_\r\nd\r\nstart\ndata: {\r\n6\r\n}\n\nxyz\r\n0\r\n\r\n",
}
REQUESTS = {
    "get": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "odd fields": b"GET /%00?q=\xff HTTP/1.1\r\nhOsT:h\r\nX-Odd:  \x80 \r\nx-odd:\r\n\r\n",
    "length": b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world",
    "chunked": b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;x\r\n world\r\n0\r\nTrail: er\r\n\r\n",
    "empty post": b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "put": b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n\r\n\r",
    "absolute form": b"GET http://h/x HTTP/1.1\r\nHost: h\r\n\r\n",
}
MESSAGE_START = (
    b'event: message_start\ndata: {"type": "message_start", "message": {"id": "m", "model": "claude-x",'
    b' "usage": {"input_tokens": 25, "output_tokens": 1}}}\n\n'
)
CUTS = st.lists(st.integers(min_value=1, max_value=250), max_size=6)


def exact(expected: list[bytes], answers: list[list[bytes]]) -> Script:
    """Read exactly these requests, answering each with pieces; then wait for the end."""

    def script(link: TlsEnd) -> None:
        for request, pieces in zip(expected, answers, strict=True):
            assert link.read(len(request)) == request
            link.send(*pieces)
        assert link.receive() == b""

    return script


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    exchanges=st.lists(
        st.tuples(st.sampled_from(sorted(REQUESTS)), CUTS, st.sampled_from(sorted(RESPONSES)), CUTS),
        min_size=1,
        max_size=4,
    ),
    pipelined=st.booleans(),
)
def test_bytes_pass_unchanged_however_they_are_cut(
    proxy: Mitm, exchanges: list[tuple[str, list[int], str, list[int]]], pipelined: bool
) -> None:
    """Both ways, in every framing, one exchange right behind the other on the same connections, or sent ahead."""
    requests = [REQUESTS[name] for name, *_ in exchanges]
    answers = [cut_at(RESPONSES[name], cuts) for *_, name, cuts in exchanges]
    host = proxy.upstream(exact(requests, answers))
    with proxy.client(host) as client:
        if pipelined:
            whole = b"".join(requests)
            client.send(*cut_at(whole, [cut for _, cuts, *_ in exchanges for cut in cuts]))
        for n, (_, cuts, name, _) in enumerate(exchanges):
            if not pipelined:
                client.send(*cut_at(requests[n], cuts))
            assert client.read(len(RESPONSES[name])) == RESPONSES[name]
        client.close()
    assert len(proxy.last_upstream.links) == 1
    records = proxy.outbox.of(host, len(exchanges))
    assert len(records) == len(exchanges)


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_may_come_byte_by_byte(proxy: Mitm, name: str) -> None:
    """And the next exchange goes over the same connections."""
    answer = RESPONSES[name]
    pieces = [answer[n : n + 1] for n in range(len(answer))]
    host = proxy.upstream(exact([get("h")] * 2, [pieces, [RESPONSES["length"]]]))
    with proxy.client(host) as client:
        for expected in (answer, RESPONSES["length"]):
            client.send(get("h"))
            assert client.read(len(expected)) == expected


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_may_come_byte_by_byte(proxy: Mitm, name: str) -> None:
    """And another one behind it."""
    request = REQUESTS[name]
    host = proxy.upstream(exact([request, get("h")], [[response()]] * 2))
    with proxy.client(host) as client:
        client.send(*[request[n : n + 1] for n in range(len(request))])
        assert client.read(len(response())) == response()
        client.send(get("h"))
        assert client.read(len(response())) == response()


def test_the_answer_to_head_has_no_body(proxy: Mitm) -> None:
    """Its content-length speaks of what GET would get."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"
    head, then = get("h", method="HEAD"), get("h", "/2")
    host = proxy.upstream(exact([head, then], [[answer], [RESPONSES["length"]]]))
    with proxy.client(host) as client:
        client.send(head, then)
        assert client.read(len(answer) + len(RESPONSES["length"])) == answer + RESPONSES["length"]


@pytest.mark.parametrize("keep", [False, True])
def test_http_1_0_is_served_and_closed_unless_it_asks(proxy: Mitm, keep: bool) -> None:
    """RFC 9112 §9.3."""
    request = b"GET / HTTP/1.0\r\n" + (b"Connection: keep-alive\r\n" if keep else b"") + b"\r\n"
    answer = b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n" + (b"connection: keep-alive\r\n" if keep else b"") + b"\r\nhi"
    host = proxy.upstream(answering(answer, times=1 + keep))
    with proxy.client(host) as client:
        for _ in range(1 + keep):
            client.send(request)
            assert client.read(len(answer)) == answer
        if not keep:
            assert client.read_to_end() == b""
            assert client.ending == CLOSE_NOTIFY


def test_a_request_waits_for_100_continue(proxy: Mitm) -> None:
    """The head goes on before there is a body, the interim answer comes back before there is a final one."""
    head = get("h", "/v1/messages", "Content-Length: 4", "Expect: 100-continue", method="POST")

    def script(link: TlsEnd) -> None:
        assert link.read_head() == head
        link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert link.read(4) == b"body"
        link.send(response())
        link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(head)
        assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert client.read_head() == response()
    [record] = proxy.outbox.of(host)
    assert record["bytes"] == {"up": 4, "down": 0}


def test_upstream_that_ends_behind_an_interim_response_is_a_502(proxy: Mitm) -> None:
    """A 103 is no beginning of the answer: the client can still be told."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        link.close()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host))
        assert client.read_head() == b"HTTP/1.1 103 Early Hints\r\n\r\n"
        assert client.read_head().startswith(b"HTTP/1.1 502 ")


def test_another_protocol_is_relayed_both_ways_after_101(proxy: Mitm) -> None:
    """What the client sent ahead, too; the exchange is recorded as unread."""
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: noise\r\nConnection: upgrade\r\n\r\n"

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(switching + b"first")
        assert link.read(9) == b"ahead\xffand"
        link.send(b"\x00" * MIB)
        link.close()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host, "/ws", "Upgrade: noise", "Connection: upgrade") + b"ahead")
        assert client.read(len(switching) + 5) == switching + b"first"
        client.send(b"\xffand")
        assert client.read_to_end() == b"\x00" * MIB
        assert client.ending == CLOSE_NOTIFY
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["http_status"], record["aborted_by"]) == ("unreadable", 101, None)


# -- how upstream ends ---------------------------------------------------------

PART = {
    "mid length": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
    "mid chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nA\r\nhello",
    "between chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "mid trailer": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx:",
    "after the head": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
}


def leaving(data: bytes, how: str) -> Script:
    """Answer one request with `data` and leave."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(data)
        getattr(link, how)()

    return script


@pytest.mark.parametrize("how", ["close", "drop", "reset"])
@pytest.mark.parametrize("part", PART)
def test_a_response_that_breaks_off_resets_the_client(proxy: Mitm, part: str, how: str) -> None:
    """No end of ours behind what upstream did not end."""
    host = proxy.upstream(leaving(PART[part], how))
    with proxy.client(host) as client:
        client.send(post(host, b"{}"))
        received = client.read_to_end()
        assert PART[part].startswith(received)
        assert client.ending == RESET
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"], record["http_status"]) in [
        ("truncated", "upstream", 200),
        ("unreadable", None, 200),  # what there is makes no sense as an answer of this API
    ]


@pytest.mark.parametrize("how", ["close", "drop", "reset"])
@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"], ids=["no byte", "mid head"])
def test_an_upstream_that_leaves_before_its_head_is_whole_is_a_502(proxy: Mitm, part: bytes, how: str) -> None:
    """Nothing has been passed on yet, so that the client can be told."""
    host = proxy.upstream(leaving(part, how))
    with proxy.client(host) as client:
        client.send(post(host, b"{}"))
        answer = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b"x-wiremeter-error: upstream_closed" in answer
        assert client.ending == CLOSE_NOTIFY
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["error_type"], record["http_status"]) == ("error", "upstream_closed", None)


@pytest.mark.parametrize("fields", [b"", b"connection: close\r\n"], ids=["silent", "announced"])
def test_a_close_delimited_response_ends_cleanly_with_close_notify(proxy: Mitm, fields: bytes) -> None:
    """And makes one record, however long the client stays."""
    host = proxy.upstream(leaving(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + b"x" * 100_000, "close"))
    with proxy.client(host) as client:
        client.send(post(host, b"{}"))
        client.read_head()
        assert client.read_to_end() == b"x" * 100_000
        assert client.ending == CLOSE_NOTIFY
        client.close()
    proxy.outbox.of(host)
    eventually("the relay is over", lambda: not proxy.call(lambda: proxy.server.facts()["live"]))
    [record] = proxy.outbox.of(host)
    assert record["bytes"] == {"up": 2, "down": 100_000}


@pytest.mark.parametrize("how", ["drop", "reset"])
def test_a_close_delimited_response_without_close_notify_has_no_clean_end(proxy: Mitm, how: str) -> None:
    """Go's client would take it for a whole one."""
    host = proxy.upstream(leaving(b"HTTP/1.1 200 OK\r\n\r\nhalf", how))
    with proxy.client(host) as client:
        client.send(post(host, b"{}"))
        client.read_to_end()
        assert client.ending == RESET
    [record] = proxy.outbox.of(host)
    assert record["outcome"] in ("truncated", "unreadable")


def test_bytes_behind_a_response_go_nowhere(proxy: Mitm) -> None:
    """The connection that they came on is not used again."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(response(body=b"one") + response(body=b"two"))
        link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        for _ in range(2):
            client.send(get(host))
            assert client.read(len(response(body=b"one"))) == response(body=b"one")
    assert len(proxy.last_upstream.links) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HELLO\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\nfoo: bar\r\n\r\n",
        b"\x00" * 300_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_an_answer_that_is_none_is_a_502(proxy: Mitm, nonsense: bytes) -> None:
    """It names the host and what was wrong, and nothing of it is passed on."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(nonsense)
        link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host))
        answer = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 502 ") and b"x-wiremeter-error: upstream_invalid" in answer
        assert f"{host} answered nonsense: ".encode() in answer


def test_chunks_that_are_none_break_the_response(proxy: Mitm) -> None:
    """Its beginning is with the client already."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        passed.wait(WAIT_S)
        link.send(b"XX\r\n")
        link.wait_gone()

    passed = threading.Event()
    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host))
        client.read_until(b"hello\r\n")
        passed.set()
        assert client.read_to_end() == b""
        assert client.ending == RESET


# -- what goes wrong below HTTP ------------------------------------------------

BAD_RECORD = b"\x17\x03\x03\x00\x20" + b"\x00" * 32


@pytest.mark.parametrize("before", [b"", PART["mid length"]], ids=["first", "in between"])
def test_a_bad_record_of_upstreams_is_no_end(proxy: Mitm, before: bytes) -> None:
    """A 502 while the client can be told, else a reset; upstream gets the alert that it should."""
    alerts: list[str] = []

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(before)
        link.send_raw(BAD_RECORD)
        alerts.append(link.wait_gone())

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host))
        answer = client.read_to_end()
        if before:
            assert before.startswith(answer) and client.ending == RESET
        else:
            assert answer.startswith(b"HTTP/1.1 502 ") and f"TLS with {host} failed: ".encode() in answer
    [alert] = eventually("upstream has seen the end", lambda: alerts)
    assert "bad record mac" in alert.replace("_", " ")


def test_a_bad_record_of_the_clients_gets_an_alert(proxy: Mitm) -> None:
    """And ends the exchange under way, by the client's doing."""
    host = proxy.upstream(lambda link: link.wait_gone() and None)
    with proxy.client(host) as client:
        client.send(post(host, b"{}"))
        eventually("upstream has it", lambda: proxy.last_upstream.links)
        client.send_raw(BAD_RECORD)
        assert "bad record mac" in client.wait_gone().replace("_", " ")
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "client")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken_on_both_sides(proxy: Mitm, version: ssl.TLSVersion) -> None:
    """With a kept connection, and a clean end."""
    theirs = server_context()
    theirs.maximum_version = version
    ours = proxy.context()
    ours.maximum_version = version
    host = proxy.upstream(answering(response(body=b"x" * 100_000), times=2), context=theirs)
    with proxy.client(host, context=ours) as client:
        for _ in range(2):
            client.send(get(host))
            client.read_head()
            assert client.read(100_000) == b"x" * 100_000
        client.say_close()
        assert client.wait_gone() == CLOSE_NOTIFY
    assert proxy.last_upstream.links[0].tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


# -- what the client does ------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "drop", "reset"])
def test_a_client_that_leaves_in_mid_response_ends_the_upstream_connection(proxy: Mitm, how: str) -> None:
    """And the record says who broke off, with the counts so far."""
    start = MESSAGE_START
    gone: list[str] = []

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        link.send(b"%x\r\n%b\r\n" % (len(start), start))
        gone.append(link.wait_gone())

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(post(host, b'{"model": "claude-x"}'))
        client.read_until(start)
        getattr(client, how)()
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"], record["http_status"]) == ("truncated", "client", 200)
    assert record["reason"] == "the client closed the connection"
    assert record["usage"] == {"input_tokens": 25, "output_tokens": 1}
    assert record["bytes"] == {"up": 21, "down": len(start)}
    eventually("the upstream connection is closed", lambda: gone)


def test_an_early_answer_passes_while_the_request_is_still_sent(proxy: Mitm) -> None:
    """413: the client reads it although its body was not taken whole, and the connections are not used again."""
    answer = response("413 Content Too Large", b"no", "connection: close")

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(answer)
        link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host, "/v1/messages", f"Content-Length: {64 * MIB}", method="POST"), b"x" * 1000)
        assert client.read(len(answer)) == answer
        assert client.read_to_end() == b""
        assert client.ending == CLOSE_NOTIFY
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["http_status"]) == ("error", 413)


@pytest.mark.parametrize(
    ("request_bytes", "status", "named"),
    [
        (b"GARBAGE\r\n\r\n", 400, b"request line of 7 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"no host field"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400, b"line 3"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b"in one head"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 300_000, 431, b"exceeds 262144"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", 400, b"chunk size line"),
    ],
    ids=["garbage", "no host", "folded", "two lengths", "oversized", "bad chunk"],
)
def test_a_bad_request_is_refused_and_never_forwarded(
    proxy: Mitm, request_bytes: bytes, status: int, named: bytes
) -> None:
    """With what was wrong, and the limit."""
    host = proxy.upstream(answering(response(), times=0))
    with proxy.client(host) as client:
        client.send(request_bytes)
        answer = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 %d " % status) and named in answer
        assert client.ending == CLOSE_NOTIFY
    assert proxy.last_upstream.links == []


def test_an_oversized_answer_head_is_a_502_that_names_the_limit(proxy: Mitm) -> None:
    """Both ways have the same limit."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 300_000)
        link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host))
        answer = client.read_to_end()
    assert answer.startswith(b"HTTP/1.1 502 ") and b"exceeds 262144 bytes" in answer


# -- connections that are kept -------------------------------------------------


def test_a_kept_connection_serves_the_next_client(proxy: Mitm) -> None:
    """Upstream's handshake is paid once."""
    host = proxy.upstream(answering(response(), times=3))
    for _ in range(3):
        with proxy.client(host) as client:
            client.send(get(host))
            assert client.read_head() == response()
            client.close()
    assert len(proxy.last_upstream.links) == 1


def dying_at_use(partial: bytes = b"") -> Script:
    """The first connection serves one request, then closes at the moment of the second."""
    turns: list[TlsEnd] = []

    def script(link: TlsEnd) -> None:
        turns.append(link)
        link.read_head()
        link.send(response(body=b"%d" % len(turns)))
        if len(turns) == 1:
            link.read_head()
            link.send(partial)
            link.close()
        else:
            link.wait_gone()

    return script


@pytest.mark.parametrize(("method", "status"), [("GET", b"200"), ("HEAD", b"200"), ("POST", b"502")])
def test_a_kept_connection_that_closes_as_it_is_used_is_replaced_where_that_is_safe(
    proxy: Mitm, method: str, status: bytes
) -> None:
    """RFC 9112 §9.3.1: an idempotent request goes out once more; a model call could be paid twice."""
    host = proxy.upstream(dying_at_use())
    with proxy.client(host) as client:
        client.send(get(host))
        assert client.read(len(response(body=b"1"))) == response(body=b"1")
        client.send(get(host, "/2", *(["Content-Length: 0"] if method == "POST" else []), method=method))
        assert client.read_head().startswith(b"HTTP/1.1 " + status)


def test_a_part_of_an_answer_is_not_mixed_with_the_next(proxy: Mitm) -> None:
    """A kept connection that dies in the middle of a head is no idle death."""
    host = proxy.upstream(dying_at_use(partial=b"HTTP/1.1 200 OK\r\nx-half: "))
    with proxy.client(host) as client:
        client.send(get(host))
        client.read(len(response(body=b"1")))
        client.send(get(host))
        head = client.read_head()
        assert head.startswith(b"HTTP/1.1 502 ") or head == response(body=b"2")[:-1]


# -- back-pressure -------------------------------------------------------------


def test_a_client_that_does_not_read_holds_upstream_back(proxy: Mitm) -> None:
    """Memory stays bounded while 64 MiB wait, and everything arrives when the client reads on."""
    size = 64 * MIB
    sent = 0

    def script(link: TlsEnd) -> None:
        nonlocal sent
        link.read_head()
        link.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            link.send(b"x" * MIB)
            sent += MIB
        link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(get(host))
        client.read_head()
        settled(lambda: sent)
        assert sent < size
        assert backlog_of(proxy) <= BACKLOG_BYTES_MAX + READ_BYTES
        received = 0
        while received < size:
            received += len(client.receive())
        assert received == size
    proxy.outbox.of(host)


def settled(ask: Callable[[], int], rounds: int = 10) -> int:
    """Wait until an answer has stayed the same for some looks; return it."""
    last: list[int] = []

    def look() -> bool:
        last.append(ask())
        return len(last) > rounds and len(set(last[-rounds:])) == 1

    eventually("nothing moves any more", look, timeout_s=20)
    return last[-1]


def backlog_of(proxy: Mitm) -> int:
    """Return the bytes that wait in our own memory, at either side of any connection."""

    def most() -> int:
        relays = [each for each in proxy.server._live if isinstance(each, Relay)]
        streams = [stream for relay in relays for stream in (relay._client, relay._upstream) if stream]
        return max(stream.backlog for stream in streams)

    return proxy.call(most)


def test_an_upstream_that_does_not_read_holds_the_client_back(proxy: Mitm) -> None:
    """The same upwards."""
    size = 64 * MIB
    may_read = threading.Event()

    def script(link: TlsEnd) -> None:
        link.read_head()
        may_read.wait(WAIT_S)
        received = 0
        while received < size:
            received += len(link.receive())
        link.send(response(body=b"%d" % received))
        link.wait_gone()

    host = proxy.upstream(script)
    sent = 0

    def upload(client: TlsEnd) -> None:
        nonlocal sent
        client.send(get(host, "/v1/messages", f"Content-Length: {size}", method="POST"))
        for _ in range(size // MIB):
            client.send(b"x" * MIB)
            sent += MIB

    with proxy.client(host) as client:
        uploading = threading.Thread(target=upload, args=(client,))
        uploading.start()
        settled(lambda: sent)
        assert sent < size
        assert backlog_of(proxy) <= BACKLOG_BYTES_MAX + READ_BYTES
        may_read.set()
        uploading.join()
        assert client.read_until(b"%d" % size).startswith(b"HTTP/1.1 200 ")
    [record] = proxy.outbox.of(host)
    assert record["bytes"] == {"up": size, "down": 8}


def test_requests_that_are_sent_far_ahead_wait_outside(proxy: Mitm) -> None:
    """A bounded part of them is taken in; all are answered in the end."""
    count = 3000
    may_answer = threading.Event()
    request = get("h", "/" + "x" * 200)

    def script(link: TlsEnd) -> None:
        link.read(len(request))
        may_answer.wait(WAIT_S)
        link.send(response())
        for _ in range(count - 1):
            link.read(len(request))
            link.send(response())
        link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        sending = threading.Thread(target=client.send, args=(request * count,))
        sending.start()

        def ahead() -> int:
            return proxy.call(lambda: max(len(each._ahead) for each in proxy.server._live if isinstance(each, Relay)))

        assert AHEAD_BYTES_MAX < settled(ahead) <= AHEAD_BYTES_MAX + READ_BYTES
        may_answer.set()
        sending.join()
        assert client.read(len(response()) * count) == response() * count


# -- time ----------------------------------------------------------------------


def refused_as(client: TlsEnd) -> tuple[bytes, bytes]:
    """Return status and body of an answer that ends its connection."""
    head = client.read_head()
    body = client.read_to_end()
    assert client.ending == CLOSE_NOTIFY
    return head.split(b" ")[1], body


def test_a_request_head_that_does_not_go_on_is_a_408(impatient: Mitm) -> None:
    """head_timeout_s counts from its first byte."""
    with impatient.client("h.upstream.test") as client:
        client.send(b"GET / HT")
        status, body = refused_as(client)
        assert status == b"408" and b"no whole request head within 0.3 s" in body


@pytest.mark.parametrize("served", [0, 1])
def test_a_client_without_a_request_is_closed(impatient: Mitm, served: int) -> None:
    """head_timeout_s before the first one, keep_alive_timeout_s between two."""
    host = impatient.upstream(answering(response(), times=1))
    with impatient.client(host) as client:
        if served:
            client.send(get(host))
            client.read_head()
        assert client.read_to_end() == b""
        assert client.ending == CLOSE_NOTIFY


def test_a_request_body_that_does_not_go_on_is_a_408(impatient: Mitm) -> None:
    """It is the client that stands still."""
    host = impatient.upstream(lambda link: link.wait_gone() and None)
    with impatient.client(host) as client:
        client.send(get(host, "/v1/messages", "Content-Length: 10", method="POST"), b"half")
        status, body = refused_as(client)
        assert status == b"408" and b"body moved for 0.5 s" in body
    assert impatient.outbox.of(host)[0]["error_type"] == "request_timeout"


def test_an_upstream_that_does_not_take_the_request_is_a_504(impatient: Mitm) -> None:
    """It is upstream that stands still."""
    over = threading.Event()
    host = impatient.upstream(lambda link: over.wait(WAIT_S) and None)
    with impatient.client(host) as client:

        def upload() -> None:
            with contextlib.suppress(OSError):
                client.send(get(host, "/v1/messages", f"Content-Length: {64 * MIB}", method="POST"), b"x" * 32 * MIB)

        uploading = threading.Thread(target=upload)
        uploading.start()
        [record] = impatient.outbox.of(host)
        assert record["error_type"] == "upstream_timeout"
        client.sock.shutdown(socket.SHUT_RDWR)
        uploading.join()
    over.set()


def test_an_upstream_that_does_not_answer_is_a_504(impatient: Mitm) -> None:
    """response_timeout_s counts from the end of the request; an interim answer is none."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 2")
        link.wait_gone()

    host = impatient.upstream(script)
    with impatient.client(host) as client:
        client.send(get(host))
        client.read_head()
        status, body = refused_as(client)
        assert status == b"504" and f"no response from {host} within 0.4 s".encode() in body


def test_a_response_that_does_not_go_on_is_broken_off(impatient: Mitm) -> None:
    """After idle_timeout_s; upstream is named."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: ping\n")
        link.wait_gone()

    host = impatient.upstream(script)
    with impatient.client(host) as client:
        client.send(post(host, b"{}"))
        client.read_until(b"ping\n")
        assert client.read_to_end() == b""
        assert client.ending == RESET
    [record] = impatient.outbox.of(host)
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "upstream")
    assert record["reason"].startswith("nothing moved for ")


def test_a_client_that_does_not_read_on_is_broken_off(impatient: Mitm) -> None:
    """The client is named: it is its silence."""

    def script(link: TlsEnd) -> None:
        link.read_head()
        with contextlib.suppress(OSError):
            link.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", b": x\n" * 8 * MIB)

    host = impatient.upstream(script)
    with impatient.client(host) as client:
        client.send(post(host, b"{}"))
        [record] = impatient.outbox.of(host)
        assert (record["outcome"], record["aborted_by"]) == ("truncated", "client")


def test_limits_of_heads_are_settings(impatient: Mitm) -> None:
    """A request head of head_bytes_max passes, one byte more does not."""
    host = impatient.upstream(answering(response()))
    fits = get(host, "/", "X: " + "x" * (4096 - len(get(host, "/", "X: "))))
    assert len(fits) == 4096
    with impatient.client(host) as client:
        client.send(fits)
        assert client.read_head() == response()
        client.send(fits.replace(b"X: ", b"X:  "))
        assert refused_as(client)[0] == b"431"


def test_who_is_refused_and_has_not_read_all_gets_the_time_to_read() -> None:
    """What the socket does not take shows at the end of a wake-up, or when the client is told that we are done."""
    bench = Bench()
    parts = SimpleNamespace(
        scratch=bench.scratch,
        poller=bench.poller,
        limits=SimpleNamespace(idle_timeout_s=300.0, head_timeout_s=10.0, head_bytes_max=100),
        logs=Logs("test", sink=bench.lines),
    )
    relay = Relay(bench.stream, SimpleNamespace(host="h"), peer_like(Client()), parts, SimpleNamespace())  # type: ignore[arg-type]
    bench.stream._send = _full
    bench.far.sendall(b"x" * 101)
    bench.turn()
    assert bench.stream.backlog
    assert relay.deadline == bench.poller.now + 300
    bench.stream.abort()
    bench.close()


def _full(data: bytes) -> int:
    """Take nothing, as a socket whose buffer is full."""
    raise BlockingIOError
