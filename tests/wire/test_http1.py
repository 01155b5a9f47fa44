"""
Heads of HTTP/1.1 are read as every other reader reads them or not at all, and bodies are followed to the byte.

h11, an HTTP/1.1 of other people's making, is the judge where there is doubt; `WE_ALONE_REFUSE` and `WE_ALONE_ACCEPT`
hold every difference that is allowed, with its reason.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.wire.http1 import (
    CHUNK_LINE_BYTES_MAX,
    TRAILER_BYTES_MAX,
    ChunkedBody,
    Framing,
    HttpInvalid,
    LengthBody,
    NoBody,
    RequestHead,
    ResponseHead,
    UntilCloseBody,
    body_of,
    read_request_head,
    read_response_head,
)
from tests.support.splits import cut_at, every_split

KEPT_FIELDS = [
    *(b"connection", b"content-encoding", b"content-length", b"content-type", b"expect", b"host", b"upgrade"),
    *(b"proxy-authorization", b"sec-websocket-extensions", b"transfer-encoding", b"x-amzn-errortype"),
    *(b"x-amzn-bedrock-%b-token-count" % kind for kind in (b"input", b"output", b"cache-read-input")),
    *(b"x-amzn-bedrock-%b-token-count" % kind for kind in (b"cache-write-output", b"cache-write-input")),
    b"x-amzn-requestid",
]

# ---------------------------------------------------------------- a request head


def request(*fields: bytes, line: bytes = b"POST /v1 HTTP/1.1", host: bytes = b"Host: a.example") -> RequestHead:
    return read_request_head(b"\r\n".join([line, *([host] if host else []), *fields, b"", b""]))


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", to: str = "POST") -> ResponseHead:
    return read_response_head(b"\r\n".join([line, *fields, b"", b""]), request_method=to)


def test_a_request_head_says_what_a_proxy_needs():
    """Method, target, framing, and the fields that decide something; other fields are not kept."""
    head = request(b"content-LENGTH: 12", b"Content-Type:application/json", b"Authorization: Bearer x")
    assert (head.method, head.target, head.keeps_alive) == ("POST", "/v1", True)
    assert (head.framing, head.length) == (Framing.LENGTH, 12)
    assert (head.content_type, head.content_encoding) == (b"application/json", b"")
    assert head.fields == {b"host": b"a.example", b"content-length": b"12", b"content-type": b"application/json"}


def test_a_response_head_says_what_a_proxy_needs():
    """Status, framing, and the fields that decide something."""
    head = response(b"Content-Encoding: br", b"Transfer-Encoding: chunked", b"Vary: Origin")
    assert (head.status, head.keeps_alive) == (200, True)
    assert (head.framing, head.length) == (Framing.CHUNKED, 0)
    assert (head.content_type, head.content_encoding) == (b"", b"br")
    assert head.fields == {b"content-encoding": b"br", b"transfer-encoding": b"chunked"}


def test_a_field_is_read_as_text_and_is_empty_when_it_is_missing():
    """Bytes outside ASCII are latin-1, RFC 9110 §5.5; white space around a value is none of it."""
    head = request(b"Content-Type: \t caf\xe9 \t ", b"Upgrade:")
    assert head.field(b"content-type") == "caf\xe9"
    assert head.field(b"upgrade") == head.field(b"expect") == ""
    head = response(b"Content-Encoding:gzip")
    assert head.field(b"content-encoding") == "gzip"
    assert head.field(b"content-type") == ""


@given(st.lists(st.sampled_from([b" ", b"\t", b"a", b"\xe9", b",", b":"]), max_size=12).map(b"".join))
@example(b" \t")
def test_white_space_around_a_value_is_none_of_it(value: bytes):
    """RFC 9110 §5.5; within a value it stays. Also where nothing else is there."""
    fields = {b"content-type": value.strip(b" \t")}
    assert response(b"Content-Type:" + value).fields == response(b"content-type:" + value, b"X: y").fields == fields


def test_several_fields_of_one_name_are_one_list():
    """RFC 9110 §5.3, in the order in which they came, whatever the case of their names."""
    assert (
        response(b"Content-Encoding: gzip", b"X: y", b"content-encoding: br").field(b"content-encoding") == "gzip, br"
    )


def test_fields_in_which_bedrock_reports_are_kept():
    """Its counts stand in no body of the smaller vendors, its id of a response in none at all."""
    counts = {b"x-amzn-bedrock-%b-token-count" % kind: b"7" for kind in (b"input", b"output", b"cache-read-input")}
    expected = {**counts, b"x-amzn-requestid": b"id", b"x-amzn-errortype": b"E:http://x"}
    fields = [b"%b: %b" % (name.title(), value) for name, value in expected.items()]
    assert response(*fields, b"x-amzn-bedrock-invocation-latency: 9").fields == expected


@pytest.mark.parametrize("name", KEPT_FIELDS)
def test_the_fields_of_a_proxy_are_kept_and_no_others(name: bytes):
    """Whatever their case; a letter more or less makes another field."""
    value = {b"transfer-encoding": b"chunked", b"host": b"a"}.get(name, b"7")
    for written in (name, name.title(), name.upper()):
        assert response(b"%b: %b" % (written, value)).fields == {name: value}
    assert response(*(b"%b: 7" % each for each in (b"x" + name, name + b"x", name[:-1], name[1:]))).fields == {}


def test_a_field_is_found_by_its_whole_name():
    """Neither a longer name, nor a name in a value, nor an underscore makes a length."""
    head = request(b"X-Content-Length: 5", b"Content-Length-X: 5", b"Content_Length: 5", b"X: Content-Length: 5")
    assert (head.framing, head.fields) == (Framing.NONE, {b"host": b"a.example"})


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/v1beta/models/gemini:streamGenerateContent?alt=sse&key=%20"),
        ("GET", "http://a.example:8080/path"),
        ("OPTIONS", "*"),
        ("CONNECT", "a.example:443"),
        ("CONNECT", "[2001:db8::1]:443"),
        ("GET", "/caf\xe9"),
        ("get", "/"),
        ("M-SEARCH", "/"),
        ("!#$%&'*+-.^_`|~09AZaz", "/"),
    ],
)
def test_every_form_of_target_and_every_method_is_kept_as_it_came(method: str, target: str):
    """RFC 9112 §3.2 has four forms of target; a method is any token and its case counts."""
    head = request(line=f"{method} {target} HTTP/1.1".encode("latin-1"))
    assert (head.method, head.target) == (method, target)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / http/1.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/2.0",
        b"GET / HTTP/0.9",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/1.10",
        b"GET / HTTP/01.1",
        b"GET / HTTPS/1.1",
        b" GET / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\r HTTP/1.1",
        b"GET / HTTP/1.1\r",
        b"GE(T / HTTP/1.1",
        b"G\xc9T / HTTP/1.1",
        b"\r\nGET / HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"HTTP/1.1 200 OK",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_request_line_of_any_other_shape_is_refused(line: bytes):
    """One space, one space, one of two versions; a blank line before it is refused as h11 does."""
    with pytest.raises(HttpInvalid, match="^request line of .* is not of HTTP/1.1$"):
        request(line=line)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK", 200),
        (b"HTTP/1.1 200 ", 200),
        (b"HTTP/1.1 200", 200),
        (b"HTTP/1.0 404 Not\tfound \xfc", 404),
        (b"HTTP/1.1 999 Request denied", 999),
    ],
)
def test_a_status_line_may_lack_its_reason(line: bytes, status: int):
    """RFC 9112 §4 asks for the space before an absent reason, and many servers leave it out."""
    assert response(line=line).status == status


@pytest.mark.parametrize(
    "line",
    [
        b"http/1.1 200 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\nK",
        b"ICY 200 OK",
        b"GET / HTTP/1.1",
    ],
)
def test_a_status_line_of_any_other_shape_is_refused(line: bytes):
    """Three digits behind one of two versions."""
    with pytest.raises(HttpInvalid, match="^response line of .* is not of HTTP/1.1$"):
        response(line=line)


# ---------------------------------------------------------------- field lines


BAD_FIELD_LINES = [
    b"Content-Length : 5",
    b"Content-Length\t: 5",
    b" Content-Length: 5",
    b"X: a\r\n folded",
    b"X: a\r\n\tfolded",
    b"X: a\rContent-Length: 5",
    b"X: a\nContent-Length: 5",
    b"X: a\r",
    b"X: a\r\r",
    b"X: a\x00",
    b"X: a\x0b",
    b"X: a\x7f",
    b"X\x00: a",
    b"X\xe9: a",
    b"X(a): a",
    b": a",
    b"no colon",
    b"X: a\r\n\r\nGET /smuggled HTTP/1.1",
]


@pytest.mark.parametrize("line", BAD_FIELD_LINES)
def test_a_field_line_that_two_readers_could_take_differently_is_refused(line: bytes):
    """White space before a colon, folded lines, bare CR or LF, NUL: RFC 9112 §§2.2, 5.1, 5.2."""
    with pytest.raises(HttpInvalid, match="^request field in line [34] is malformed"):
        request(line)
    with pytest.raises(HttpInvalid, match="^response field in line [23] is malformed"):
        response(line)


def test_what_is_refused_is_named_and_never_quoted():
    """Targets and values hold keys, and messages reach the logs."""
    secret = b"sk-4711"
    for line in (b"Authorization: " + secret + b"\x00", b"Authorization:\r\n " + secret, secret, b"X y: " + secret):
        with pytest.raises(HttpInvalid) as caught:
            request(line)
        assert secret.decode() not in str(caught.value)
    with pytest.raises(HttpInvalid) as caught:
        request(line=b"GET /?key=sk-4711 HTTP/1.7")
    assert str(caught.value) == "request line of 26 bytes is not of HTTP/1.1"
    with pytest.raises(HttpInvalid, match="^request field in line 3 is malformed: Authorization$"):
        request(b"Authorization: \x00")


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n\r", b"\n\n", b"\r\n\r\n\r\n", b"\r\n\r\nx"])
def test_a_head_ends_in_its_only_empty_line(end: bytes):
    """Neither a part of a head nor more than a head is one."""
    with pytest.raises(HttpInvalid):
        read_request_head(b"GET / HTTP/1.0" + end)
    with pytest.raises(HttpInvalid):
        read_response_head(b"HTTP/1.1 200 OK" + end, request_method="GET")


def test_a_head_that_only_lacks_its_end_is_told_so():
    """The message fits what is wrong."""
    with pytest.raises(HttpInvalid, match="^request head does not end in an empty line$"):
        read_request_head(b"GET / HTTP/1.0\r\nX: y")


def test_a_head_without_fields_is_whole():
    """HTTP/1.0 asks for none, and a response needs none."""
    assert read_request_head(b"GET / HTTP/1.0\r\n\r\n").fields == {}
    assert read_response_head(b"HTTP/1.1 200 OK\r\n\r\n", request_method="GET").fields == {}


def test_reading_a_long_head_takes_time_in_proportion_to_it():
    """A megabyte of short lines, good or bad in its last byte, is read without a stack that overflows."""
    long = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 250_000
    started = time.process_time()
    assert read_request_head(long + b"\r\n").field(b"host") == "a"
    with pytest.raises(HttpInvalid):
        read_request_head(long + b"\x00\r\n")
    with pytest.raises(HttpInvalid):
        read_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a" * 1_000_000 + b"\r\n\r\n")
    with pytest.raises(HttpInvalid):
        read_request_head(b"a" * 1_000_000)
    with_blanks = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b%b\r\n\r\n" % (b" " * 1_000_000)
    assert read_request_head(with_blanks).field(b"upgrade") == "b"
    # Some 0.2 s; what is quadratic would take hours.
    assert time.process_time() - started < 10


# ---------------------------------------------------------------- host


def test_a_request_of_http_1_1_names_one_host():
    """RFC 9112 §3.2: missing, repeated (even alike) or malformed is refused; HTTP/1.0 may do without."""
    assert request(host=b"Host: [2001:db8::1]:8080").field(b"host") == "[2001:db8::1]:8080"
    assert request(host=b"Host:").field(b"host") == ""
    assert request(host=b"", line=b"GET / HTTP/1.0").field(b"host") == ""
    with pytest.raises(HttpInvalid, match="^request of HTTP/1.1 has no host field$"):
        request(host=b"")
    for host in (
        b"Host: a\r\nHost: b",
        b"Host: a\r\nhost: a",
        b"Host:\r\nHost:",
        b"Host: a, b",
        b"Host: a b",
        b"Host: a/b",
    ):
        for version in (b"0", b"1"):
            with pytest.raises(HttpInvalid, match="^host b'.*' is not one host$"):
                request(host=host, line=b"GET / HTTP/1." + version)


# ---------------------------------------------------------------- keeping alive


@pytest.mark.parametrize(
    ("fields", "in_1_1", "in_1_0"),
    [
        ([], True, False),
        ([b"Connection:"], True, False),
        ([b"Connection: keep-alive"], True, True),
        ([b"Connection: Keep-Alive, foo"], True, True),
        ([b"Connection: foo ,\tKEEP-ALIVE"], True, True),
        ([b"Connection: close"], False, False),
        ([b"Connection: foo", b"connection: Close"], False, False),
        ([b"Connection: close", b"Connection: keep-alive"], False, False),
        ([b"Connection: keep-alive, close"], False, False),
        ([b"Connection: closed"], True, False),
        ([b"Proxy-Connection: close"], True, False),
    ],
)
def test_a_connection_is_kept_as_its_version_and_its_options_say(fields: list[bytes], in_1_1: bool, in_1_0: bool):
    """RFC 9112 §9.3: close wins, 1.1 keeps, 1.0 keeps when asked."""
    assert request(*fields).keeps_alive is in_1_1
    assert request(*fields, line=b"GET / HTTP/1.0").keeps_alive is in_1_0
    assert response(*fields, b"Content-Length: 0").keeps_alive is in_1_1
    assert response(*fields, b"Content-Length: 0", line=b"HTTP/1.0 200 OK").keeps_alive is in_1_0


def test_a_response_that_ends_with_its_connection_does_not_keep_it():
    """Whatever its connection field says."""
    head = response(b"Connection: keep-alive")
    assert (head.framing, head.keeps_alive) == (Framing.UNTIL_CLOSE, False)


@pytest.mark.parametrize(("line", "method"), [(b"HTTP/1.1 101 x", "GET"), (b"HTTP/1.1 200 x", "CONNECT")])
def test_a_response_that_leaves_http_has_no_body_and_is_the_last(line: bytes, method: str):
    """What follows 101, or 2xx to CONNECT, is another protocol's: no next response is awaited there."""
    for field in (b"X: y", b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        head = response(b"Connection: upgrade", field, line=line, to=method)
        assert (head.framing, head.length, head.keeps_alive) == (Framing.NONE, 0, False)


# ---------------------------------------------------------------- framing


def test_a_request_without_a_length_has_no_body():
    """RFC 9112 §6.3, rule 7."""
    assert request().framing is Framing.NONE


def test_a_response_without_a_length_lasts_until_the_close():
    """RFC 9112 §6.3, rule 8; also where CONNECT was refused."""
    assert response().framing is Framing.UNTIL_CLOSE
    assert response(line=b"HTTP/1.1 407 x", to="CONNECT").framing is Framing.UNTIL_CLOSE


def test_a_length_of_zero_is_no_body():
    """Said in any number of zeros."""
    for length in (b"Content-Length: 0", b"Content-Length: 000"):
        assert (request(length).framing, request(length).length) == (Framing.NONE, 0)
        assert response(length).framing is Framing.NONE
        assert response(length).keeps_alive


def test_the_longest_length_has_eighteen_digits():
    """No arithmetic on it can surprise anyone."""
    assert request(b"Content-Length: " + b"9" * 18).length == 10**18 - 1
    with pytest.raises(HttpInvalid, match="^content-length b'9999999999999999999' is no length$"):
        request(b"Content-Length: " + b"9" * 19)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"+5",
        b"-5",
        b"5 5",
        b"5_0",
        b"0x5",
        b"5.0",
        b"5e1",
        b"5;",
        b"'5'",
        b"5, 5",
        b"5,",
        b",5",
        b"\xb2",
        b"\xd9\xa5",
    ],
)
def test_a_length_is_decimal_digits_and_nothing_else(value: bytes):
    """Each of these is a number to some reader."""
    for read in (request, response):
        with pytest.raises(HttpInvalid, match="^content-length b.* is no length$"):
            read(b"Content-Length: " + value)


@pytest.mark.parametrize("second", [b"6", b"5", b"", b"chunked"])
def test_two_lengths_are_refused_even_alike(second: bytes):
    """RFC 9112 §6.3, rule 5 allows equal ones to be merged; nobody we serve sends them."""
    for read in (request, response):
        with pytest.raises(HttpInvalid, match="is no length$"):
            read(b"Content-Length: 5", b"content-length: " + second)


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
        (b"transfer-encoding: Chunked", b"X: y", b"CONTENT-LENGTH: 0"),
        (b"Transfer-Encoding: chunked", b"Content-Length:"),
    ],
)
def test_both_lengths_in_one_head_are_refused(fields: tuple[bytes, ...]):
    """CL.TE and TE.CL: RFC 9112 §6.1 lets a server refuse, and §11.2 says why one should."""
    for read in (request, response):
        with pytest.raises(HttpInvalid, match="^transfer-encoding and content-length in one head are refused$"):
            read(*fields)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"identity",
        b"gzip",
        b"gzip, chunked",
        b"chunked, identity",
        b"chunked, chunked",
        b"chunked,",
        b", chunked",
        b"xchunked",
        b"chunkedx",
        b"chunked;q=1",
        b"chunked x",
        b"x chunked",
        b'"chunked"',
        b"'chunked'",
        b"\xa0chunked",
        b"chunked\xa0",
        b"\xe3hunked",
    ],
)
def test_a_transfer_coding_is_chunked_alone_or_refused(value: bytes):
    """Obfuscations that one reader skips and the next one obeys."""
    for read in (request, response):
        with pytest.raises(HttpInvalid, match="^transfer-encoding b.* in HTTP/1.1 is not read$"):
            read(b"Transfer-Encoding: " + value)


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b" Transfer-Encoding: chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"X: y\nTransfer-Encoding: chunked",
        b"Transfer-Encoding\r\n : chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding: chunked\x0c",
        b"Transfer-Encoding: chunked\x00",
        b"Transfer-Encoding: chunked\r",
        b"Transfer-Encoding: chunk\r\n ed",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
        b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    ],
)
def test_an_obfuscated_transfer_coding_is_refused(line: bytes):
    """With and without the length that it is meant to hide."""
    for fields in ((line,), (b"Content-Length: 5", line), (line, b"Content-Length: 5")):
        for read in (request, response):
            with pytest.raises(HttpInvalid):
                read(*fields)


def test_a_transfer_coding_is_written_in_any_case_and_space():
    """RFC 9112 §7: codings are case-insensitive."""
    for line in (b"Transfer-Encoding:chunked", b"TRANSFER-ENCODING: \t CHUNKED \t "):
        assert request(line).framing is response(line).framing is Framing.CHUNKED


def test_chunks_in_http_1_0_are_refused():
    """RFC 9112 §6.1 calls that framing faulty: some read chunks, others read until the close."""
    with pytest.raises(HttpInvalid, match=r"^transfer-encoding b'chunked' in HTTP/1.0 is not read$"):
        request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")
    with pytest.raises(HttpInvalid, match=r"^transfer-encoding b'chunked' in HTTP/1.0 is not read$"):
        response(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK")


def test_a_request_for_a_tunnel_has_no_body():
    """RFC 9110 §9.3.6: to some these bytes would be content, to others the tunnel's first."""
    connect = b"CONNECT a.example:443 HTTP/1.1"
    assert request(b"Content-Length: 0", line=connect).framing is Framing.NONE
    for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        with pytest.raises(HttpInvalid, match="^a CONNECT request with a body is refused$"):
            request(field, line=connect)


@pytest.mark.parametrize(
    ("line", "method"),
    [
        (b"HTTP/1.1 100 Continue", "POST"),
        (b"HTTP/1.1 103 Early Hints", "GET"),
        (b"HTTP/1.1 204 No Content", "POST"),
        (b"HTTP/1.1 304 Not Modified", "GET"),
        (b"HTTP/1.1 200 OK", "HEAD"),
    ],
)
def test_some_responses_never_have_a_body(line: bytes, method: str):
    """RFC 9112 §6.3, rule 1, whatever their fields say; their fields must be readable all the same."""
    for field in (b"X: y", b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        head = response(field, line=line, to=method)
        assert (head.framing, head.length, head.keeps_alive) == (Framing.NONE, 0, True)
    for fields in ((b"Content-Length: x",), (b"Content-Length: 5", b"Transfer-Encoding: chunked")):
        with pytest.raises(HttpInvalid):
            response(*fields, line=line, to=method)


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("piece", "start"),
    [
        (b"5\r\nhello\r\n", 3),
        (b"00A\r\n0123456789\r\n", 5),
        (b"5\r\nhello\r", 0),
        (b"5\r\nhello\r\n5", 0),
        (b"5\r\nhello\n\n", 0),
        (b"5\r\nhello!\r\n", 0),
        (b"5;x=y\r\nhello\r\n", 0),
        (b"0\r\n\r\n", 0),
        (b"\r\nhello\r\n", 0),
        (b"", 0),
    ],
)
def test_a_chunk_that_comes_alone_is_told_and_nothing_else_is_done(piece: bytes, start: int):
    """Between two chunks only."""
    body = ChunkedBody()
    assert body.only_chunk(piece) == start
    assert body.only_chunk(piece) == start
    assert follow(body, [b"5\r\nhel"]) == Followed(b"hel", 6, False)
    assert body.only_chunk(piece) == 0
    assert follow(body, [b"lo\r\n"]) == Followed(b"lo", 4, False)
    assert body.only_chunk(piece) == start


@dataclass
class Followed:
    """What a tracker made of its pieces: the content, how many bytes are the message's, and whether it is over."""

    content: bytes = b""
    taken: int = 0
    done: bool = False


def follow(body: NoBody | LengthBody | ChunkedBody | UntilCloseBody, pieces: Sequence[bytes]) -> Followed:
    """Feed `pieces` as a connection would: each in a place of its own in a larger buffer, until the body is done."""
    followed = Followed(done=body.done)
    for number, piece in enumerate(pieces):
        before = b"0\r\n\r\n"[: number % 6]
        data = bytearray(before + piece + b"\r\n0\r\n\r\n")
        content: list[tuple[int, int]] = []
        start, end = len(before), len(before) + len(piece)
        alone = start + body.only_chunk(piece) if isinstance(body, ChunkedBody) else start
        after = body.feed(data, start, end, content)
        assert alone == start or (content, after, body.done) == ([(alone, end - 2)], end, False)
        assert start <= after <= end
        assert after == end or body.done
        for first, last in content:
            assert start <= first < last <= after, "content is a part of what was taken, and never empty"
            start = last
            followed.content += data[first:last]
        followed.taken += after - len(before)
        followed.done = body.done
        if body.done:
            break
    return followed


def chunked_verdict(pieces: Sequence[bytes]) -> Followed | None:
    """Follow chunks; None when they are refused."""
    try:
        return follow(ChunkedBody(), pieces)
    except HttpInvalid:
        return None


@pytest.mark.parametrize(
    ("fields", "tracker"),
    [
        ([b"Content-Length: 0"], NoBody),
        ([b"Content-Length: 1"], LengthBody),
        ([b"Transfer-Encoding: chunked"], ChunkedBody),
        ([], UntilCloseBody),
    ],
)
def test_a_head_chooses_the_tracker_of_its_body(fields: list[bytes], tracker: type):
    """One for each framing."""
    assert type(body_of(response(*fields))) is tracker


def test_no_body_takes_no_bytes():
    """It is done from the start, and what follows is the next message's."""
    assert follow(NoBody(), [b"GET"]) == Followed(done=True)
    assert follow(LengthBody(0), [b"GET"]) == Followed(done=True)


def test_a_length_is_counted_to_its_last_byte():
    """However the bytes come, and not beyond."""
    for pieces in every_split(b"hello, worldGET"):
        assert follow(LengthBody(12), pieces) == Followed(b"hello, world", 12, True)
    assert follow(LengthBody(12), [b"hello"]) == Followed(b"hello", 5, False)
    assert follow(LengthBody(12), [b"", b"hello, world"]) == Followed(b"hello, world", 12, True)


def test_a_body_until_the_close_is_never_done_by_itself():
    """Only the shell learns of the close."""
    for pieces in every_split(b"hello, world"):
        assert follow(UntilCloseBody(), pieces) == Followed(b"hello, world", 12, False)
    assert follow(UntilCloseBody(), [b""]) == Followed()


CHUNKS = (
    b"5\r\nhello\r\n"
    b"001\r\n,\r\n"  # leading zeros
    b"2;x\r\n w\r\n"  # an extension without a value
    b'1 ; a = "b;c" ; d\r\no\r\n'  # white space, which RFC 9112 §7.1.1 asks us to bear
    b"a  \r\nrld\r\n0\r\n\r\n\r\n"  # white space alone; content that looks like an end
    b"1\r\n!\r\n"
    b"0;last\r\n"
    b"X-Checksum: 5\r\n"  # a trailer
    b"Y:\r\n"
    b"\r\n"
)


def test_chunks_are_followed_however_they_were_cut():
    """Content, end and all, byte by byte as well; the bytes of the next message stay untouched."""
    for tail in (b"", b"HTTP/1.1 200 OK\r\n"):
        for pieces in every_split(CHUNKS + tail):
            assert follow(ChunkedBody(), pieces) == Followed(b"hello, world\r\n0\r\n\r\n!", len(CHUNKS), True)


def test_chunks_that_break_off_are_not_done():
    """No part of a chunked body is taken for its end."""
    for length in range(len(CHUNKS)):
        followed = follow(ChunkedBody(), [CHUNKS[:length]])
        assert not followed.done
        assert followed.taken == length


def test_what_a_buffer_holds_behind_the_read_is_not_read():
    """Old bytes that would go on with the message, as a buffer that is used again holds them."""
    for end in range(len(CHUNKS)):
        followed: list[tuple[int, int]] = []
        body = ChunkedBody()
        assert body.feed(bytearray(CHUNKS), 0, end, followed) == end
        assert not body.done
        assert all(last <= end for _, last in followed)


def test_a_tracker_says_what_it_awaits():
    """For the log line of a connection that stopped in the middle."""
    body = ChunkedBody()
    awaited = [repr(body)]
    for byte in b"1\r\nx\r\n0\r\n\r\n":
        body.feed(bytearray([byte]), 0, 1, [])
        if repr(body) != awaited[-1]:
            awaited.append(repr(body))
    assert awaited == [
        "<ChunkedBody awaiting a chunk size>",
        "<ChunkedBody awaiting chunk data>",
        "<ChunkedBody awaiting the CR after a chunk>",
        "<ChunkedBody awaiting the LF after a chunk>",
        "<ChunkedBody awaiting a chunk size>",
        "<ChunkedBody awaiting a trailer line>",
        "<ChunkedBody awaiting nothing>",
    ]


def test_a_body_that_is_done_takes_nothing_more():
    """A shell that asks once too often learns nothing new."""
    body = ChunkedBody()
    assert body.feed(bytearray(b"0\r\n\r\n"), 0, 5, []) == 5
    assert body.feed(bytearray(b"0\r\n\r\n"), 2, 5, []) == 2


@pytest.mark.parametrize(
    "chunks",
    [
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"\t5\r\nhello\r\n",
        b"0x10\r\n",
        b"0X1\r\n",
        b"+1\r\n",
        b"-1\r\n",
        b"1_0\r\n",
        b"1 0\r\n",
        b"5,5\r\n",
        b"g\r\n",
        b"5\xb2\r\n",
        b";x\r\n",
        b"5\n",
        b"5\r\r\n",
        b"\r5\r\n",
        b"5\x00\r\n",
        b"5\x0b\r\n",
        b"5;a\nhello\r\n",  # a bare LF ends an extension for one reader and not for the next
        b"5;a\rb\r\n",
        b"5;a\r\r\n",
        b"5;\x00\r\n",
        b"5;\x7f\r\n",
        b"10000000000000000\r\n",  # 2**64: nothing, where it overflows
        b"ffffffffffffffff\r\n",  # -1, where it is signed
        b"0000000000000005\r\n",  # sixteen digits, whatever their value
        b"5\r\nhelloX",
        b"5\r\nhelloX\n",
        b"5\r\nhello\n\n",
        b"5\r\nhello\n",
        b"5\r\nhello\rX",
        b"5\r\nhello0\r\n",
        b"5\r\nhello\r\r",
        b"5\r\nhello\n\r",
        b"5\r\nhello \r\n",
        b"5\r\nhello\r\n\r\n",
        b"5\r\nhello, \r\n",  # a size too small
        b"5\r\nhell\r\n5\r\n",  # a size too large
        b"0\r\n\n",
        b"0\r\n \r\n",
        b"0\r\nX\r\n",
        b"0\r\nX : y\r\n",
        b"0\r\n: y\r\n",
        b"0\r\nX: y\n",
        b"0\r\nX: y\r\n z\r\n",
        b"0\r\nX: a\rb\r\n",
        b"0\r\nX: \x00\r\n",
        b"0\r\n\rX: y\r\n",
        b"0\r\nGET / HTTP/1.1\r\n",
    ],
)
def test_malformed_chunks_are_refused_however_they_were_cut(chunks: bytes):
    """The usual vectors of request smuggling, and every way to miss a CR LF."""
    for pieces in every_split(chunks):
        with pytest.raises(HttpInvalid):
            follow(ChunkedBody(), pieces)


def test_chunks_that_are_refused_are_not_quoted():
    """In a body that went wrong any line could be a prompt."""
    for chunks in (b"secret\r\n", b"1\r\nsecret\r\n", b"0\r\nsecret\r\n"):
        with pytest.raises(HttpInvalid) as caught:
            follow(ChunkedBody(), [chunks])
        assert "secret" not in str(caught.value)


def test_the_largest_chunk_size_is_only_counted():
    """Nothing is kept for it, and its digits are written in either case."""
    body = ChunkedBody()
    assert follow(body, [b"fFfFfFfFfFfFfFf\r\n" + b"x" * 100]) == Followed(b"x" * 100, 117, False)


def test_a_chunk_line_has_a_limit():
    """The same one whether it comes whole or in parts, and whether its end ever comes."""
    longest = b"5;" + b"x" * (CHUNK_LINE_BYTES_MAX - 4) + b"\r\n"
    for cut in (1, 4094, 4095, 4096):
        pieces = [longest[:cut], longest[cut:] + b"hello\r\n0\r\n\r\n"]
        assert follow(ChunkedBody(), pieces).content == b"hello"
    for pieces in ([b"5;x" + longest[2:]], [b"5;x" + longest[2:-1], b"\n"], [b"5;" + b"x" * CHUNK_LINE_BYTES_MAX]):
        with pytest.raises(HttpInvalid, match=r"^a chunk size of \d+ bytes or more exceeds 4096$"):
            follow(ChunkedBody(), pieces)


def test_a_trailer_line_has_the_same_limit():
    """However it was cut."""
    longest = b"X:" + b"x" * (CHUNK_LINE_BYTES_MAX - 4) + b"\r\n"
    assert follow(ChunkedBody(), [b"0\r\n" + longest + b"\r\n"]).done
    for pieces in ([b"0\r\nX" + longest], [b"0\r\nX", longest[:-1], b"\n"]):
        with pytest.raises(HttpInvalid, match="^a trailer line of 4097 bytes or more exceeds 4096$"):
            follow(ChunkedBody(), pieces)


def test_a_trailer_has_a_limit():
    """All of its lines together, the empty one included."""
    line = b"X:" + b"x" * 1020 + b"\r\n"  # 1024 bytes
    almost = b"0\r\n" + line * (TRAILER_BYTES_MAX // 1024 - 1)
    assert follow(ChunkedBody(), [almost + line[2:-4].replace(b"x", b"X:", 1)[:-1] + b"\r\n\r\n"]).done
    with pytest.raises(HttpInvalid, match="^trailer of 65538 bytes or more exceeds 65536$"):
        follow(ChunkedBody(), [almost + line + b"\r\n"])


# ---------------------------------------------------------------- h11 as the judge


@dataclass(frozen=True)
class Message:
    """A message as a reader understood it."""

    start: tuple[object, ...]
    content: bytes
    taken: int
    """Bytes of the connection up to the end of this message."""
    over: bool


def our_request(data: bytes, cuts: Sequence[int] = ()) -> Message | None:
    """Read one request with our reader, the body in pieces; None when there is no whole head."""
    at = data.find(b"\r\n\r\n") + 4
    if at < 4:
        return None
    head = read_request_head(data[:at])
    body = follow(body_of(head), cut_at(data[at:], cuts))
    return Message((head.method, head.target), body.content, at + body.taken, body.done)


def our_response(data: bytes, method: str, cuts: Sequence[int] = ()) -> Message | None:
    """Read one final response; statuses of the interim ones stand first in its `start`."""
    statuses: list[int] = []
    at = 0
    while True:
        end = data.find(b"\r\n\r\n", at) + 4
        if end < 4:
            return None
        head = read_response_head(data[at:end], request_method=method)
        at = end
        statuses.append(head.status)
        if head.status >= 200 or head.status == 101:
            break
    body = follow(body_of(head), cut_at(data[at:], cuts))
    return Message(tuple(statuses), body.content, at + body.taken, body.done or head.framing is Framing.UNTIL_CLOSE)


def h11_request(data: bytes) -> Message | None:
    """Read one request with h11; None when there is no whole head."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    start = connection.next_event()
    if not isinstance(start, h11.Request):
        return None
    content, over = h11_body(connection)
    # A body that breaks off is all of the connection: h11 has taken the bytes or waits on them.
    taken = len(data) - len(connection.trailing_data[0]) if over else len(data)
    return Message((start.method.decode(), start.target.decode("latin-1")), content, taken, over)


def h11_response(data: bytes, method: str) -> Message | None:
    """Read one final response with h11."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    # Without a proposal h11 knows of no 101.
    headers = [("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
    connection.send(h11.Request(method=method, target="/", headers=headers))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    statuses = []
    while True:
        start = connection.next_event()
        if not isinstance(start, h11.InformationalResponse | h11.Response):
            return None
        statuses.append(start.status_code)
        if start.status_code >= 200 or start.status_code == 101:
            break
    if start.status_code == 101:
        return Message(tuple(statuses), b"", len(data) - len(connection.trailing_data[0]), True)
    until_close = connection.their_state is h11.SEND_BODY and type(connection._reader).__name__ == "Http10Reader"
    content, over = h11_body(connection)
    if until_close:
        return Message(tuple(statuses), content, len(data), True)
    return Message(tuple(statuses), content, len(data) - len(connection.trailing_data[0]) if over else len(data), over)


def h11_body(connection: h11.Connection) -> tuple[bytes, bool]:
    content = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            content += event.data
        else:
            return content, isinstance(event, h11.EndOfMessage)


TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode)
BINARY = st.binary(max_size=60)
# Content in which no shape of `WE_ALONE_REFUSE` can be found.
PLAIN = st.text("abc", max_size=60).map(str.encode)
SPACE = st.sampled_from([b"", b" ", b"\t", b"  \t "])
# Ends in visible characters: white space around a value is added by `fields`.
VALUES = st.from_regex(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]{0,20}[!-~\x80-\xff])?)?", fullmatch=True)
OF_NO_CONCERN = (b"host", b"connection", b"content-length", b"transfer-encoding", b"upgrade")


@st.composite
def cased(draw: st.DrawFn, name: bytes) -> bytes:
    return draw(st.sampled_from([name, name.lower(), name.upper(), name.swapcase()]))


@st.composite
def field_lines(draw: st.DrawFn, name: bytes, value: bytes) -> bytes:
    return draw(cased(name)) + b":" + draw(SPACE) + value + draw(SPACE) + b"\r\n"


@st.composite
def chunked_bodies(draw: st.DrawFn, contents: st.SearchStrategy[bytes] = BINARY) -> tuple[bytes, bytes]:
    """Make a chunked body and the content in it."""
    wire = content = b""
    for chunk in draw(st.lists(contents.filter(len), max_size=5)):
        content += chunk
        wire += draw(chunk_lines(len(chunk))) + chunk + b"\r\n"
    wire += draw(chunk_lines(0))
    for name, value in draw(st.lists(st.tuples(TOKENS, VALUES), max_size=2)):
        wire += draw(field_lines(name, value))
    return wire + b"\r\n", content


@st.composite
def chunk_lines(draw: st.DrawFn, size: int) -> bytes:
    digits = draw(st.sampled_from([b"%x", b"%X", b"%06x"])) % size
    # h11 takes no white space between a size and its extension.
    extension = draw(st.sampled_from([b"", b";", b";a", b"; a=b", b';a="b;\t\xe9";c', b" ", b"\t "]))
    return digits + extension + b"\r\n"


@st.composite
def framed(draw: st.DrawFn, kinds: Sequence[Framing], contents: st.SearchStrategy[bytes]) -> tuple[bytes, bytes, bytes]:
    """Make the field line that frames a body, the body, and the content in it."""
    kind = draw(st.sampled_from(kinds))
    if kind is Framing.CHUNKED:
        coding = draw(st.sampled_from([b"chunked", b"Chunked", b"CHUNKED"]))
        return draw(field_lines(b"Transfer-Encoding", coding)), *draw(chunked_bodies(contents))
    content = b"" if kind is Framing.NONE else draw(contents)
    if kind is Framing.LENGTH:
        digits = draw(st.sampled_from([b"%d", b"%05d"])) % len(content)
        return draw(field_lines(b"Content-Length", digits)), content, content
    return b"", content, content


@st.composite
def other_fields(draw: st.DrawFn) -> list[bytes]:
    """Make fields that do not frame: some that a proxy reads, some that nobody does."""
    fields = draw(st.lists(st.tuples(TOKENS, VALUES), max_size=4))
    lines = [draw(field_lines(name, value)) for name, value in fields if name.lower() not in OF_NO_CONCERN]
    options = draw(st.lists(st.sampled_from([b"close", b"Keep-Alive", b"foo", b""]), max_size=2))
    return lines + [draw(field_lines(b"Connection", option)) for option in options]


@st.composite
def requests(draw: st.DrawFn, contents: st.SearchStrategy[bytes] = BINARY) -> tuple[bytes, Message]:
    """Make a valid request and what every reader should make of it."""
    method = draw(TOKENS.filter(lambda token: token != b"CONNECT"))
    target = draw(st.from_regex(r"[!-~]{1,30}", fullmatch=True))
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    kinds = [Framing.NONE, Framing.LENGTH] + [Framing.CHUNKED] * (version == b"1.1")
    framing, body, content = draw(framed(kinds, contents))
    host = [draw(field_lines(b"Host", b"a.example:80"))]
    lines = draw(st.permutations([*draw(other_fields()), framing, *host]))
    data = b"%b %b HTTP/%b\r\n" % (method, target.encode(), version) + b"".join(lines) + b"\r\n" + body
    return data, Message((method.decode(), target), content, len(data), True)


@st.composite
def responses(draw: st.DrawFn, contents: st.SearchStrategy[bytes] = BINARY) -> tuple[bytes, str, Message]:
    """Make a valid response, perhaps behind interim ones; the method it answers; what a reader should make of it."""
    method = draw(st.sampled_from(["POST", "HEAD", "GET"]))
    interim = draw(st.lists(st.sampled_from([100, 102, 103, 199]), max_size=2))
    status = draw(st.sampled_from([200, 200, 200, 204, 304, 404, 500, 599, 999]))
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    reason = draw(st.sampled_from([b"", b" ", b" OK", b" not\tso \xe9 "]))
    kinds = [Framing.NONE, Framing.LENGTH, Framing.UNTIL_CLOSE] + [Framing.CHUNKED] * (version == b"1.1")
    framing, body, content = draw(framed(kinds, contents))
    if method == "HEAD" or status in (204, 304):
        body = content = b""
    lines = draw(st.permutations([*draw(other_fields()), framing]))
    data = b"".join(b"HTTP/1.1 %d x\r\nX: y\r\n\r\n" % number for number in interim)
    data += b"HTTP/%b %d%b\r\n" % (version, status, reason) + b"".join(lines) + b"\r\n" + body
    return data, method, Message((*interim, status), content, len(data), True)


CUTS = st.lists(st.integers(1, 200), max_size=6)
PIECEMEAL = st.one_of(CUTS, st.just(list(range(1, 2000))))


@given(requests(), PIECEMEAL)
def test_a_request_is_what_h11_finds(made: tuple[bytes, Message], cuts: list[int]):
    """Any valid head and body, cut anywhere: the same content, and the end to the byte."""
    data, expected = made
    assert our_request(data, cuts) == h11_request(data) == expected


@given(responses(), PIECEMEAL)
def test_a_response_is_what_h11_finds(made: tuple[bytes, str, Message], cuts: list[int]):
    """Also behind interim responses, to HEAD, without content, and until the close."""
    data, method, expected = made
    assert our_response(data, method, cuts) == h11_response(data, method) == expected


@given(st.lists(requests(), min_size=2, max_size=4), PIECEMEAL)
def test_pipelined_requests_are_separated_exactly(made: list[tuple[bytes, Message]], cuts: list[int]):
    """Each begins where the one before it ends, for us as for h11."""
    rest = b"".join(data for data, _ in made)
    for _, expected in made:
        found = our_request(rest, cuts)
        assert found == h11_request(rest) == expected
        rest = rest[expected.taken :]
    assert rest == b""


@given(responses(), responses(), PIECEMEAL)
def test_responses_on_one_connection_are_separated_exactly(
    first: tuple[bytes, str, Message], second: tuple[bytes, str, Message], cuts: list[int]
):
    """Unless the first one lasts until the close: then all the rest is its content."""
    (data, method, expected), (next_data, next_method, next_expected) = first, second
    both = data + next_data
    found = our_response(both, method, cuts)
    assert found == h11_response(both, method)
    assert found is not None
    if found.taken < len(both):
        assert found == expected
        assert our_response(both[found.taken :], next_method, cuts) == next_expected
    else:
        assert found.content == expected.content + next_data


def test_h11_leaves_http_where_we_do():
    """What follows 101 is left alone by both."""
    data = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n\x81\x05hello"
    assert our_response(data, "GET") == h11_response(data, "GET") == Message((101,), b"", len(data) - 7, True)


@dataclass(frozen=True)
class Difference:
    """A way in which h11 and we may differ: its reason, what a message of that kind must show, and the smallest one."""

    reason: str
    shape: bytes
    example: bytes

    def __str__(self) -> str:
        return self.reason


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = GET + b"Transfer-Encoding: chunked\r\n\r\n"
WE_ALONE_REFUSE = [
    Difference(
        "a bare LF ends a line for h11: RFC 9112 §2.2 allows it to a recipient, and we pass the line on as it came",
        rb"(?<!\r)\n",
        GET + b"X: y\nZ: z\r\n\r\n",
    ),
    Difference(
        "h11 unfolds folded lines: RFC 9112 §5.2 lets a server refuse, and the reader behind us may not unfold",
        rb"\n[ \t]",
        GET + b"X: y\r\n z\r\n\r\n",
    ),
    Difference(
        "h11 lets control characters into values and extensions: RFC 9110 §5.5 calls them invalid",
        rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)",
        GET + b"X: \x01\r\n\r\n",
    ),
    Difference(
        "h11 reads any version: we pass on what we know", rb"HTTP/(?!1\.[01]\r)", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"
    ),
    Difference(
        "h11 lets transfer-encoding win over content-length, as RFC 9112 §6.3 allows: the reader behind us may not",
        rb"(?is)transfer-encoding:.*content-length:|content-length:.*transfer-encoding:",
        GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    Difference(
        "h11 merges equal lengths, as RFC 9112 §6.3 allows: nobody we serve sends them",
        rb"(?is)content-length:.*content-length:|content-length:[^\r]*,",
        GET + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ),
    Difference(
        "h11 takes lengths of nineteen and twenty digits",
        rb"(?i)content-length:[ \t]*[0-9]{19}",
        GET + b"Content-Length: 0000000000000000001\r\n\r\nx",
    ),
    Difference(
        "h11 takes chunk sizes of sixteen to twenty digits",
        rb"(?i)\n[0-9a-f]{16}",
        CHUNKED + b"0000000000000001\r\nx\r\n0\r\n\r\n",
    ),
    Difference(
        "h11 reads chunks in HTTP/1.0: RFC 9112 §6.1 calls that framing faulty, and others read until the close",
        rb"(?is)HTTP/1\.0.*transfer-encoding:",
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    Difference(
        "h11 takes any value of Host: RFC 9112 §3.2 asks us to refuse what is no host",
        rb"(?i)\nhost:[^\r]*(?:[^0-9A-Za-z\-._~%!$&'()*+;=:\[\]\s]|\S[ \t]+\S)",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ),
    Difference(
        "h11 follows a body behind CONNECT: RFC 9110 §9.3.6 knows of none",
        rb"\ACONNECT ",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    ),
]
WE_ALONE_ACCEPT = [
    Difference(
        "bytes outside ASCII in a target: RFC 3986 has none, and yet clients send them and servers read them alike",
        rb"\A[^\r]*[\x80-\xff]",
        b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Difference(
        "white space before an extension: RFC 9112 §7.1.1 asks us to bear it, and it changes no size",
        rb"\n[0-9A-Fa-f]+[ \t]+;",
        CHUNKED + b"1 ;x\r\nx\r\n0\r\n\r\n",
    ),
]
SPICES = [
    *(bytes([byte]) for byte in b'\x00\t\n\x0b\r !",:;=0159afx\x7f\x80\xff'),
    *(b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\n ", b"\r\n\t", b"chunked", b"identity", b", ", b"+", b"-", b"_", b"0x"),
    *(
        b"Content-Length: 5\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: b\r\n",
        b"X: y\r\n",
    ),
    *(b"0\r\n\r\n", b"5\r\n", b"ffffffffffffffff", b"00000000000000", b"HTTP/1.0", b"HTTP/1.1", b" ;a", b"CONNECT"),
]


@st.composite
def spiced(draw: st.DrawFn, data: bytes) -> bytes:
    """Spoil a message in one to three places, as people do who smuggle."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
        data = data[:at] + draw(st.sampled_from([b"", *SPICES])) + data[at + gone :]
    return data


def judge(data: bytes, ours: Message | HttpInvalid | None, theirs: Message | h11.RemoteProtocolError | None) -> None:
    """
    Hold that two readers agree, or differ in an allowed way.

    A message that goes on, to h11, cannot be compared when we refuse it: h11 reads a trailer as a whole, we by line.
    """
    refused, they_refused = isinstance(ours, HttpInvalid), isinstance(theirs, h11.RemoteProtocolError)
    if refused and isinstance(theirs, Message) and theirs.over:
        assert any(re.search(difference.shape, data) for difference in WE_ALONE_REFUSE), (data, ours, theirs)
    elif they_refused and not refused and ours is not None:
        assert any(re.search(difference.shape, data) for difference in WE_ALONE_ACCEPT), (data, ours, theirs)
    elif not refused and ours is not None:
        assert ours == theirs, data


@pytest.mark.parametrize("difference", WE_ALONE_REFUSE, ids=str)
def test_we_refuse_what_h11_accepts_for_these_reasons_only(difference: Difference):
    """The list is true: each of its lines is a difference, and an extra spoils no valid message."""
    assert re.search(difference.shape, difference.example)
    assert h11_request(difference.example) is not None
    with pytest.raises(HttpInvalid):
        our_request(difference.example)
    assert not re.search(difference.shape, CHUNKED + b"1;x\r\nx\r\n0\r\nX: y\r\n\r\n")


@pytest.mark.parametrize("difference", WE_ALONE_ACCEPT, ids=str)
def test_we_accept_what_h11_refuses_for_these_reasons_only(difference: Difference):
    """The same, the other way round."""
    assert re.search(difference.shape, difference.example)
    with pytest.raises(h11.RemoteProtocolError):
        h11_request(difference.example)
    found = our_request(difference.example)
    assert found is not None
    assert found.over
    assert not re.search(difference.shape, CHUNKED + b"1;x\r\nx\r\n0\r\nX: y\r\n\r\n")


@given(st.data())
@settings(max_examples=200)
def test_spoiled_requests_are_read_as_h11_reads_them_or_refused(data: st.DataObject):
    """Whatever we pass on is, to h11, one message with the same content and the same end."""
    wire = data.draw(requests(PLAIN).flatmap(lambda made: spiced(made[0])))
    judge(wire, *_verdicts(lambda: our_request(wire, data.draw(CUTS)), lambda: h11_request(wire)))


@given(st.data())
@settings(max_examples=200)
def test_spoiled_responses_are_read_as_h11_reads_them_or_refused(data: st.DataObject):
    """The same for what comes back."""
    (_, method, _), wire = data.draw(responses(PLAIN).flatmap(lambda made: st.tuples(st.just(made), spiced(made[0]))))
    judge(wire, *_verdicts(lambda: our_response(wire, method, data.draw(CUTS)), lambda: h11_response(wire, method)))


def _verdicts(ours, theirs):
    try:
        our_verdict = ours()
    except HttpInvalid as refusal:
        our_verdict = refusal
    try:
        their_verdict = theirs()
    except h11.RemoteProtocolError as refusal:
        their_verdict = refusal
    return our_verdict, their_verdict


# ---------------------------------------------------------------- noise


@given(chunked_bodies().flatmap(lambda made: spiced(made[0])), PIECEMEAL)
@example(b"0\r\n\r\n", [1, 2, 3])
def test_the_verdict_on_chunks_does_not_depend_on_how_they_were_cut(wire: bytes, cuts: list[int]):
    """Good or spoiled: the same content, the same end, or refused both times."""
    whole = chunked_verdict([wire])
    assert chunked_verdict(cut_at(wire, cuts)) == whole


@given(st.lists(st.sampled_from(SPICES), max_size=30).map(b"".join) | st.binary(max_size=200), CUTS)
def test_noise_is_refused_in_our_own_words(noise: bytes, cuts: list[int]):
    """Nothing but HttpInvalid is ever raised, whatever a peer sends."""
    for read in (read_request_head, lambda head: read_response_head(head, request_method="GET")):
        for head in (noise, b"GET / HTTP/1.1\r\nHost: a\r\n" + noise, b"HTTP/1.1 200\r\n" + noise + b"\r\n\r\n"):
            try:
                body = body_of(read(head))
                follow(body, cut_at(noise, cuts))
            except HttpInvalid:
                pass
    chunked_verdict(cut_at(noise, cuts))
