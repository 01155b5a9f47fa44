"""Server-sent events are read by the WHATWG rules, in any split, without losing, joining or inventing events."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire.sse import STRAY_BYTES_MAX, EventTooLarge, ServerSentEvent, ServerSentEventReader
from tests.support.splits import CUTS, cut_at, every_split


def events_in(pieces: list[bytes]) -> list[ServerSentEvent]:
    """Read `pieces`, and leave out what `end` hands over."""
    reader = ServerSentEventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def data_in(pieces: list[bytes]) -> list[bytes]:
    reader = ServerSentEventReader()
    return [data for piece in pieces for data in reader.feed_data(piece)]


def by_the_standard(body: bytes) -> list[tuple[bytes, str, str]]:
    """Interpret a whole body as the standard words it, on text and line by line: the oracle."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\n|\r", body)
    lines.pop()  # what follows the last line end is an unfinished line
    data, event_type, last_id, found = b"", b"", b"", []
    for line in lines:
        if line == b"":
            if data:
                found.append((data[:-1], event_type.decode(errors="replace") or "message", last_id.decode()))
            data, event_type = b"", b""
        elif not line.startswith(b":"):
            name, value = line.split(b":", 1) if b":" in line else (line, b"")
            value = value[1:] if value.startswith(b" ") else value
            if name == b"data":
                data += value + b"\n"
            elif name == b"event":
                event_type = value
            elif name == b"id" and b"\0" not in value:
                last_id = value
    return found


FRAGMENTS = [
    b"data", b"data:", b"data: ", b"data:  two", b"event: name", b"event:", b"id: 7", b"id", b"id: \0", b"retry: 10",
    b": comment", b":", b" ", b"x", b'{"a": "b:c"}', b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n",
    b"\xef\xbb\xbf", b"\xc3\xa4", b"datax: no", b"data: {}\n\n", b"event: e\ndata: {}\n\n",
]  # fmt: skip
BODIES = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join)


@given(BODIES, CUTS)
def test_events_are_those_of_the_standard_however_they_are_cut(body: bytes, cuts: list[int]) -> None:
    found = [(event.data, event.event, event.last_event_id) for event in events_in(cut_at(body, cuts))]
    assert found == by_the_standard(body)


@given(BODIES, CUTS)
def test_data_alone_is_the_data_of_the_same_events(body: bytes, cuts: list[int]) -> None:
    assert data_in(cut_at(body, cuts)) == [data for data, _, _ in by_the_standard(body)]


@given(st.binary(max_size=300), CUTS)
def test_noise_gives_what_the_standard_makes_of_it(noise: bytes, cuts: list[int]) -> None:
    pieces = cut_at(noise, cuts)
    assert data_in(pieces) == [data for data, _, _ in by_the_standard(noise)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_ends_a_line(line_end: bytes) -> None:
    body = line_end.join([b"event: start", b'data: {"a":', b"data: 1}", b"", b": comment", b"data:no space", b"", b""])
    for pieces in every_split(body):
        assert events_in(pieces) == [
            ServerSentEvent(data=b'{"a":\n1}', event="start"),
            ServerSentEvent(data=b"no space"),
        ]


def test_an_event_is_handed_out_with_its_last_byte() -> None:
    """Nobody waits for the next event, nor for the LF behind a CR."""
    reader = ServerSentEventReader()
    assert reader.feed(b"data: 1\r\r") == [ServerSentEvent(data=b"1")]
    assert reader.feed(b"\ndata: 2\r\n\r") == [ServerSentEvent(data=b"2")]
    assert reader.feed(b"\n") == []


def test_a_byte_order_mark_is_skipped_once() -> None:
    body = b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n"
    for pieces in every_split(body):
        assert data_in(pieces) == [b"1"]


def test_an_id_lasts_and_a_type_does_not() -> None:
    body = b"id: 5\nevent: a\ndata: 1\n\ndata: 2\n\nid\ndata: 3\n\n"
    assert events_in([body]) == [
        ServerSentEvent(data=b"1", event="a", last_event_id="5"),
        ServerSentEvent(data=b"2", last_event_id="5"),
        ServerSentEvent(data=b"3"),
    ]


@pytest.mark.parametrize(("value", "expected"), [(b"2500", 2500), (b"2.5", None), (b"", None), (b"9" * 99, None)])
def test_a_reconnection_time_is_digits(value: bytes, expected: int | None) -> None:
    reader = ServerSentEventReader()
    reader.feed(b"retry: " + value + b"\n")
    assert reader.retry_ms == expected


@pytest.mark.parametrize(
    ("body", "unfinished"),
    [
        (b"data: 1\n\n", None),
        (b'data: 1\n\ndata: {"a"', b'{"a"'),
        (b"data: a\ndata: b\n", b"a\nb"),
        (b"data: a\r\n", b"a"),
        (b"event: lonely\n", None),
        (b"dat", None),
        (b"\xef\xbb\xbfdata: x", b"x"),
        (b"", None),
    ],
)
def test_the_end_hands_over_the_event_that_was_cut(body: bytes, unfinished: bytes | None) -> None:
    for pieces in every_split(body):
        reader = ServerSentEventReader()
        for piece in pieces:
            reader.feed_data(piece)
        last = reader.end()
        assert (last.data if last else None) == unfinished


def test_text_outside_any_field_is_kept_apart() -> None:
    """Google writes a bare JSON error between events; it is not an event, and it is not lost."""
    body = b'data: 1\r\n\r\n{\r\n  "error": {\r\n    "code": 503\r\n  }\r\n}\r\n\r\ndata: 2\r\n\r\n{"last": 1}'
    for pieces in every_split(body):
        reader = ServerSentEventReader()
        assert [data for piece in pieces for data in reader.feed_data(piece)] == [b"1", b"2"]
        assert reader.end() is None
        assert reader.stray_text == b'{\n  "error": {\n    "code": 503\n  }\n}\n\n{"last": 1}'


def test_of_much_stray_text_the_newest_is_kept() -> None:
    reader = ServerSentEventReader()
    for number in range(20_000):
        reader.feed_data(b"stray line %d\n\n" % number)
    assert reader.stray_text.endswith(b"\n\nstray line 19999")
    assert len(reader.stray_text) <= STRAY_BYTES_MAX


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + b"x" * 101 + b"\n\n"],
        [b"data: " + b"x" * 90, b"x" * 20],
        [b"data: " + b"x" * 60 + b"\n", b"data: " + b"x" * 60 + b"\n"],
        [b"event: " + b"x" * 200 + b"\n"],
        [b": " + b"x" * 60, b"x" * 60],
    ],
)
def test_an_event_beyond_the_limit_is_refused_by_name(pieces: list[bytes]) -> None:
    reader = ServerSentEventReader(event_bytes_max=100)
    with pytest.raises(EventTooLarge, match=r"server-sent event of \d+ bytes or more exceeds 100"):
        for piece in pieces:
            reader.feed_data(piece)


def test_events_at_the_limit_pass_however_many_come_together() -> None:
    reader = ServerSentEventReader(event_bytes_max=100)
    body = (b"data: " + b"x" * 99 + b"\n\n") * 50
    assert reader.feed_data(body) == [b"x" * 99] * 50


def test_any_bytes_like_piece_will_do() -> None:
    reader = ServerSentEventReader()
    assert reader.feed_data(memoryview(b"data: 1\n\n")) == [b"1"]
    assert reader.feed(bytearray(b"data: 2\n\n")) == [ServerSentEvent(data=b"2")]
