"""The short way reads nearly all heads, and reads them as the rules of http1.py do; all others it leaves to these."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.wire.http1 import (
    Framing,
    HttpInvalid,
    RequestHead,
    ResponseHead,
    read_request_head,
    read_response_head,
)
from services.wire.usual_head import LINES_MAX, usual_request_head, usual_response_head

BYTES_MAX = 2_000_000
# As clients of today write them.
REQUESTS = {
    "curl": b"POST /v1/messages HTTP/1.1\r\nHost: api.anthropic.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: 412\r\n\r\n",
    "node": b"POST /v1/messages?beta=true HTTP/1.1\r\naccept: application/json\r\nx-stainless-os: Linux\r\n"
    b"content-type: application/json\r\naccept-encoding: br, gzip, deflate\r\nConnection: keep-alive\r\n"
    b"Host: api.anthropic.com\r\nContent-Length: 120000\r\n\r\n",
    "go": b"POST /v1internal:streamGenerateContent?alt=sse HTTP/1.1\r\nHost: daily-cloudcode-pa.googleapis.com\r\n"
    b"User-Agent: antigravity/1.11 linux/amd64\r\nTransfer-Encoding: chunked\r\nAccept-Encoding: gzip\r\n\r\n",
    "without a body": b"GET /v1/models HTTP/1.1\r\nhost: [2001:db8::1]:8080\r\n\r\n",
}
RESPONSES = {
    "stream": b"HTTP/1.1 200 OK\r\nDate: Fri, 27 Nov 2026 13:00:00 GMT\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: keep-alive\r\nCF-RAY: 9a\r\n\r\n",
    "json": b"HTTP/1.1 200\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 1023\r\n\r\n",
    "error": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 18\r\n\r\n",
}


def told(head: RequestHead | ResponseHead) -> tuple[object, ...]:
    """Return all that a head says."""
    return type(head), *head[:-1], head.fields


@pytest.mark.parametrize("name", REQUESTS)
def test_usual_requests_take_the_short_way(name: str) -> None:
    """And say what they say by the rules; what lies behind them is left alone."""
    head = REQUESTS[name]
    found = usual_request_head(bytearray(head + b"{}\r\n\r\n"), len(head) + 6, BYTES_MAX)
    assert found is not None
    assert (told(found[0]), found[1]) == (told(read_request_head(head)), len(head))


@pytest.mark.parametrize("name", RESPONSES)
def test_usual_responses_take_the_short_way(name: str) -> None:
    """The same for what comes back."""
    head = RESPONSES[name]
    found = usual_response_head(bytearray(head + b"{}\r\n\r\n"), len(head) + 6, BYTES_MAX)
    assert found is not None
    assert (told(found[0]), found[1]) == (told(read_response_head(head, request_method="POST")), len(head))


@given(st.sampled_from([*REQUESTS.values(), *RESPONSES.values()]), st.data())
def test_a_head_that_is_not_whole_is_none(head: bytes, data: st.DataObject) -> None:
    """What the buffer holds behind `size` is of the read before."""
    size = data.draw(st.integers(0, len(head) - 1))
    assert usual_request_head(bytearray(head), size, BYTES_MAX) is None
    assert usual_response_head(bytearray(head), size, BYTES_MAX) is None


def test_a_head_that_is_too_long_is_none() -> None:
    """To the byte; the rules say why."""
    for head, usual in ((REQUESTS["go"], usual_request_head), (RESPONSES["json"], usual_response_head)):
        for behind in (b"", b"{}"):
            assert usual(bytearray(head + behind), len(head + behind), len(head)) is not None
            assert usual(bytearray(head + behind), len(head + behind), len(head) - 1) is None


# -- what needs another look ---------------------------------------------------


ODD_FIELDS = [
    b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\ncontent-length: 6", b"Content-Length: 5, 5",
    b"Content-Length: +5", b"Content-Length: 5 ", b"Content-Length:", b"Content-Length: 0x5", b"Content-Length: 05",
    b"Content-Length: 1234567890123456789", b"Content-Length: 5\xb2", b"Content-Length : 5", b"Content-Length: -1",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked ", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding:", b"Transfer-Encoding\t: chunked",
    b"Connection: close", b"Connection: keep-alive, close", b"Connection: upgrade", b"Connection:",
    b"Content-Type: a\r\nContent-Type: a", b"Content-Type: a ", b"Content-Type: \t",
    b"Content-Encoding: gzip\r\nContent-Encoding: br", b"Content-Encoding: br\t",
    b"Host: b", b"host:", b"HOST: a.example", b"Host : b",
    b" folded", b"X: y\r\n z", b"X: y\nZ: z", b"X: y\rZ: z", b"X: \x00", b"X y: z", b": x", b"no colon", b"X\x80: y",
]  # fmt: skip


@pytest.mark.parametrize("field", ODD_FIELDS)
def test_what_could_be_taken_differently_does_not_take_the_short_way(field: bytes) -> None:
    """Nor does what is merely odd: one place decides about these."""
    request = b"POST / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n%b\r\nY: z\r\n\r\n" % field
    assert usual_request_head(bytearray(request), len(request), BYTES_MAX) is None
    if not field.lower().startswith(b"host:"):
        response = b"HTTP/1.1 200 OK\r\nX: y\r\n%b\r\nY: z\r\n\r\n" % field
        assert usual_response_head(bytearray(response), len(response), BYTES_MAX) is None


OTHER_REQUESTS = [
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.11\r\nHost: a\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("head", OTHER_REQUESTS)
def test_other_requests_do_not_take_the_short_way(head: bytes) -> None:
    """The rules refuse most of them."""
    assert usual_request_head(bytearray(head), len(head), BYTES_MAX) is None


@pytest.mark.parametrize("line", [b"HTTP/1.0 200 OK", *(b"HTTP/1.1 %d x" % n for n in (100, 101, 103, 199, 204, 304))])
def test_other_responses_do_not_take_the_short_way(line: bytes) -> None:
    """Those whose status says how they end, and those of a version that knows no chunks."""
    for head in (b"%b\r\nContent-Length: 5\r\n\r\n" % line, b"%b\r\nTransfer-Encoding: chunked\r\n\r\n" % line):
        assert usual_response_head(bytearray(head), len(head), BYTES_MAX) is None


@pytest.mark.parametrize("field", [b"X: y", b"Content-Length: 0", b"Content-Type: text/plain"])
def test_a_response_without_a_body_to_follow_does_not_take_the_short_way(field: bytes) -> None:
    """It ends with its connection, or at once."""
    head = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % field
    assert usual_response_head(bytearray(head), len(head), BYTES_MAX) is None


# -- the rules agree -----------------------------------------------------------

NAMES = st.sampled_from([
    b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Content-Type", b"Content-Encoding",
    b"Expect", b"Upgrade", b"X", b"Content-Types", b"Content", b"Hosts", b"X-Host", b"Connections",
    b"x-amzn-requestid", b"Content-Length ", b" Host", b"Content_Length", b"", b"Tr", b"\xe9",
])  # fmt: skip
VALUES = st.sampled_from([
    b"5", b"0", b"17", b"05", b"chunked", b"Chunked", b"keep-alive", b"close", b"Keep-Alive", b"a.example", b"",
    b"a b", b"application/json", b"text/plain; charset=utf-8", b"gzip", b"\xe9", b"a,b", b"5, 5", b"\x00", b"\x7f",
    b"1" * 18, b"1" * 19, b"\r", b"\n", b"a\r\n b", b"x\r\nContent-Length: 7", b"GET / HTTP/1.1", b"[::1]:80",
])  # fmt: skip
SPACE = st.sampled_from([b"", b" ", b" ", b" ", b"\t", b" \t "])
CASED = st.sampled_from([bytes, bytes.lower, bytes.upper, bytes.swapcase])


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    name = draw(CASED)(draw(NAMES))
    return name + b":" + draw(SPACE) + draw(VALUES) + draw(st.sampled_from([b"", b"", b"", b" ", b"\t"])) + b"\r\n"


GOOD_LINES = st.sampled_from([
    b"Host: a.example\r\n", b"content-length: 5\r\n", b"Content-Length:12\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: keep-alive\r\n", b"Content-Type: text/plain; charset=utf-8\r\n", b"Content-Encoding:\r\n",
    b"X: \xe9 y \r\n", b"Upgrade: \r\n", b"x-amzn-requestid: a\r\n",
])  # fmt: skip
# Most heads begin well, so that their fields are looked at.
REQUEST_LINES = st.just(b"POST /v1 HTTP/1.1\r\n") | st.sampled_from([
    b"GET /caf\xe9?x#y HTTP/1.1\r\n", b"get * HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"HEAD / HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n", b"CONNECTS a:1 HTTP/1.1\r\n", b"GET / HTTP/1.1 \r\n", b"GET / HTTP/1.1\n", b"",
])  # fmt: skip
STATUS_LINES = st.just(b"HTTP/1.1 200 OK\r\n") | st.sampled_from([
    b"HTTP/1.1 500\r\n", b"HTTP/1.1 404 \r\n", b"HTTP/1.1 999 \xe9\tx \r\n", b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 204 x\r\n", b"HTTP/1.1 2040 x\r\n", b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 099 x\r\n", b"HTTP/1.1 200x\r\n",
])  # fmt: skip


@st.composite
def heads(draw: st.DrawFn, first_lines: st.SearchStrategy[bytes]) -> bytes:
    """Make a head, mostly good, sometimes spoiled in one place."""
    host = draw(st.sampled_from([b"", b"Host: a\r\n"]))
    head = draw(first_lines) + host + b"".join(draw(st.lists(GOOD_LINES | lines(), max_size=6))) + b"\r\n"
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(head)))
        spice = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b":", b",", b"0", b"\x00", b"\xff", b"Host:a\r\n"])
        )
        head = head[:at] + spice + head[at + draw(st.integers(0, 2)) :]
    return head


@given(heads(REQUEST_LINES), st.binary(max_size=20))
@settings(max_examples=1000)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n", b"")
def test_requests_of_the_short_way_are_read_alike_by_the_rules(head: bytes, behind: bytes) -> None:
    """To the byte where they end, and field by field."""
    data = bytearray(head + behind)
    found = usual_request_head(data, len(data), BYTES_MAX)
    if found is not None:
        end = data.find(b"\r\n\r\n") + 4
        assert (told(found[0]), found[1]) == (told(read_request_head(bytes(data[:end]))), end)


@given(heads(STATUS_LINES), st.binary(max_size=20), st.sampled_from(["GET", "POST", "OPTIONS", "TRACE", "head"]))
@settings(max_examples=1000)
def test_responses_of_the_short_way_are_read_alike_by_the_rules(head: bytes, behind: bytes, method: str) -> None:
    """Whatever they answer, but HEAD and CONNECT."""
    data = bytearray(head + behind)
    found = usual_response_head(data, len(data), BYTES_MAX)
    if found is not None:
        end = data.find(b"\r\n\r\n") + 4
        by_the_rules = read_response_head(bytes(data[:end]), request_method=method)
        assert (told(found[0]), found[1]) == (told(by_the_rules), end)


@given(st.lists(GOOD_LINES, max_size=6).map(b"".join))
def test_what_the_rules_refuse_is_left_to_them(fields: bytes) -> None:
    """Made of good lines only, a head is refused for its sum."""
    for read, usual, first in (
        (read_request_head, usual_request_head, b"GET / HTTP/1.1\r\n"),
        (lambda head: read_response_head(head, request_method="GET"), usual_response_head, b"HTTP/1.1 200 OK\r\n"),
    ):
        head = first + fields + b"\r\n"
        try:
            read(head)
        except HttpInvalid:
            assert usual(bytearray(head), len(head), BYTES_MAX) is None


def test_a_head_of_many_lines_does_not_take_the_short_way() -> None:
    """However they are filled."""
    for lines_, is_usual in ((LINES_MAX, True), (LINES_MAX + 1, False)):
        for first, usual in ((b"PUT / HTTP/1.1", usual_request_head), (b"HTTP/1.1 200", usual_response_head)):
            head = first + b"\r\nhost:\r\ncontent-length: 5\r\n" + b"a:\r\n" * (lines_ - 2) + b"\r\n"
            assert (usual(bytearray(head), len(head), BYTES_MAX) is not None) is is_usual


def test_a_long_head_takes_time_in_proportion_to_it() -> None:
    """A megabyte of short lines or in one line, good or bad in its last byte."""
    started = time.process_time()
    for long in (b"POST / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 250_000, b"POST / HTTP/1.1\r\n\r\n", b"a" * 1_000_000):
        for end in (b"\r\n", b"\x00\r\n", b"host: b\r\n\r\n", b""):
            assert usual_request_head(bytearray(long + end), len(long + end), BYTES_MAX) is None
    for name in (b"X", b"Host", b"Content-Type", b"Content-Length", b"Connection"):
        blank = b"POST / HTTP/1.1\r\n%b:%bb c\r\n\r\n" % (name, b" " * 1_000_000)
        assert usual_request_head(bytearray(blank), len(blank), BYTES_MAX) is None
    # Some 0.1 s; what is quadratic would take hours.
    assert time.process_time() - started < 10


def test_a_body_framed_in_chunks_has_no_length() -> None:
    """And one with a length says it."""
    for field, expected in (
        (b"transfer-encoding: CHUNKED", (Framing.CHUNKED, 0)),
        (b"content-length:7", (Framing.LENGTH, 7)),
    ):
        for first, usual in ((b"PUT / HTTP/1.1\r\nhost:", usual_request_head), (b"HTTP/1.1 201", usual_response_head)):
            head = b"%b\r\n%b\r\n\r\n" % (first, field)
            found = usual(bytearray(head), len(head), BYTES_MAX)
            assert found is not None and (found[0].framing, found[0].length) == expected
