"""AWS event streams give the messages that botocore reads, in any split, and no message that was altered."""

import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer, ParserError
from hypothesis import given
from hypothesis import strategies as st

from services.wire.eventstream import EventStreamInvalid, EventStreamMessage, EventStreamReader
from tests.support.eventstream import STRING, event, message, string
from tests.support.splits import CUTS, cut_at, every_split

Found = list[tuple[dict[str, object], bytes]]


def read(pieces: list[bytes], reader: EventStreamReader | None = None) -> tuple[Found, bool]:
    """Return the messages in `pieces`, and whether what is behind them was refused."""
    reader = reader or EventStreamReader()
    found: list[EventStreamMessage] = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
        reader.end()
    except EventStreamInvalid:
        return [(dict(each.headers), each.payload) for each in found], True
    return [(dict(each.headers), each.payload) for each in found], False


def by_botocore(body: bytes) -> tuple[Found, bool]:
    """Read the whole with botocore: the oracle."""
    buffer = EventStreamBuffer()
    found: Found = []
    try:
        buffer.add_data(body)
        for each in buffer:
            found.append((each.headers, each.payload))
    except (ParserError, UnicodeDecodeError):
        return found, True
    return found, False


NAMES = st.text("abc:-é", min_size=1, max_size=12)
VALUES = st.one_of(
    st.sampled_from([(0, b""), (1, b"")]),
    st.tuples(st.just(2), st.integers(-128, 127).map(lambda number: struct.pack(">b", number))),
    st.tuples(st.just(3), st.integers(-(2**15), 2**15 - 1).map(lambda number: struct.pack(">h", number))),
    st.tuples(st.just(4), st.integers(-(2**31), 2**31 - 1).map(lambda number: struct.pack(">i", number))),
    st.tuples(st.sampled_from([5, 8]), st.integers(-(2**63), 2**63 - 1).map(lambda number: struct.pack(">q", number))),
    st.tuples(st.just(6), st.binary(max_size=20).map(lambda data: struct.pack(">H", len(data)) + data)),
    st.tuples(st.just(STRING), st.text(max_size=20).map(string)),
    st.tuples(st.just(9), st.binary(min_size=16, max_size=16)),
)
MESSAGES = st.builds(
    lambda headers, payload: message([(name, *value) for name, value in headers.items()], payload),
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.binary(max_size=60),
)
STREAMS = st.lists(MESSAGES, max_size=5).map(b"".join)


@given(STREAMS, CUTS)
def test_messages_are_those_that_botocore_reads_however_they_are_cut(body: bytes, cuts: list[int]) -> None:
    assert read(cut_at(body, cuts)) == by_botocore(body)


@given(STREAMS, st.data())
def test_a_cut_stream_gives_its_whole_messages(body: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(body)))
    assert read([body[:cut]]) == by_botocore(body[:cut])


@given(st.lists(MESSAGES, min_size=1, max_size=3).map(b"".join), CUTS, st.data())
def test_a_flipped_bit_never_passes(body: bytes, cuts: list[int], data: st.DataObject) -> None:
    """The messages before it do, whatever the split."""
    place = data.draw(st.integers(0, len(body) * 8 - 1))
    bad = bytearray(body)
    bad[place // 8] ^= 1 << place % 8
    assert read(cut_at(bytes(bad), cuts)) == by_botocore(bytes(bad))


@given(st.binary(min_size=12, max_size=200), CUTS)
def test_noise_is_refused(noise: bytes, cuts: list[int]) -> None:
    assert read(cut_at(noise, cuts)) == ([], True)


def test_a_message_is_read_however_it_was_cut() -> None:
    body = event("metadata", b'{"usage":{}}') + event("throttlingException", b"{}", message_type="exception")
    for pieces in every_split(body):
        found, refused = read(pieces)
        assert [(headers[":message-type"], payload) for headers, payload in found] == [
            ("event", b'{"usage":{}}'),
            ("exception", b"{}"),
        ]
        assert not refused


def test_a_header_of_another_type_is_no_text() -> None:
    (found,) = EventStreamReader().feed(message([("n", 4, struct.pack(">i", 7)), ("t", STRING, string("x"))], b""))
    assert (found.text("n"), found.text("t"), found.text("none")) == ("", "x", "")


def prelude(length: int, headers_length: int) -> bytes:
    lengths = struct.pack(">II", length, headers_length)
    return lengths + struct.pack(">I", crc32(lengths))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (prelude(1016, 101), "message headers of 101 bytes exceed 100"),
        (prelude(1017, 0), "message payload of 1001 bytes exceeds 1000"),
        (prelude(2**32 - 1, 0), "message payload of 4294967279 bytes exceeds 1000"),
        (prelude(15, 0), "message of 15 bytes cannot hold 0 bytes of headers"),
        (prelude(20, 5), "message of 20 bytes cannot hold 5 bytes of headers"),
        (b"\0" * 11 + b"\1", "checksum of the lengths of a message is"),
        (message([], b"x")[:-1] + b"!", "checksum of a message of 17 bytes is"),
        (message([("a", 0, b""), ("a", 1, b"")], b""), "header 'a' comes twice"),
        (message([("a", 10, b"")], b""), "header type 10 is none"),
        (message([("a", STRING, b"\0\x09abc")], b""), "last header ends behind the 8 bytes"),
        (message([("a", STRING, b"\0")], b""), "is malformed"),
        (message([("a", STRING, b"\0\1\xff")], b""), "is malformed"),
        (message([("a", 4, b"\0")], b""), "is malformed"),
    ],
)
def test_what_is_refused_says_why(body: bytes, problem: str) -> None:
    """A length is judged as soon as it is known: nothing of that size is ever kept."""
    reader = EventStreamReader(headers_bytes_max=100, payload_bytes_max=1000)
    with pytest.raises(EventStreamInvalid, match=problem):
        reader.feed(body)
    with pytest.raises(EventStreamInvalid, match=problem):
        reader.feed(b"")
    with pytest.raises(EventStreamInvalid, match=problem):
        reader.end()


def test_a_message_at_the_limits_passes() -> None:
    at_limits = message([("a" * 60, STRING, string("x" * 36))], b"y" * 1000)
    assert read([at_limits], EventStreamReader(headers_bytes_max=100, payload_bytes_max=1000))[1] is False


def test_an_error_waits_until_what_came_before_it_is_read() -> None:
    reader = EventStreamReader()
    assert len(reader.feed(event("a", b"{}") + b"\xff" * 16)) == 1
    with pytest.raises(EventStreamInvalid):
        reader.end()
