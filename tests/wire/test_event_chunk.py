"""A chunk that is one event: seen as those see it who read chunks and events, or not at all."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.wire.event_chunk import event_in_chunk
from services.wire.http1 import ChunkedBody, HttpInvalid
from services.wire.sse import ServerSentEventReader


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def as_readers_see(piece: bytes) -> tuple[list[bytes], int, bool]:
    """Return the events, the bytes of content, and whether both readers stand between two of theirs."""
    body, events = ChunkedBody(), ServerSentEventReader()
    content: list[tuple[int, int]] = []
    body.feed(bytearray(piece), 0, len(piece), content)
    data = b"".join(piece[first:last] for first, last in content)
    found = events.feed_data(data)
    return found, len(data), body.is_between_chunks and events.is_between_events and not body.done


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'data: {"a":1}\n\n', b'{"a":1}'),
        (b'data: {"a":1}\r\n\r\n', b'{"a":1}'),
        (b"data:{}\n\n", b"{}"),
        (b"data: {}\n\r\n", b"{}"),
        (b"event: message_start\ndata: {}\n\n", b"{}"),
        (b"event: message_start\r\ndata: {}\r\n\r\n", b"{}"),
    ],
)
def test_the_shapes_that_providers_send_are_seen(content: bytes, text: bytes) -> None:
    """With its data and the size of what it stands in."""
    assert event_in_chunk(chunk(content)) == (text, len(content))


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        chunk(b"data: {}\n"),
        chunk(b"data: {}\n\n")[:-1],
        chunk(b"data: {}\n\n") + b"0\r\n\r\n",
        chunk(b"data: {}\n\n") * 2,
        chunk(b"data: 1\n\ndata: 2\n\n"),
        chunk(b"data: 1\rdata: 2\n\n"),
        chunk(b"data: 1\ndata: 2\n\n"),
        chunk(b"id: 1\ndata: 1\n\n"),
        chunk(b"event: x\revent: y\ndata: 1\n\n"),
        chunk(b": data: 1\n\n"),
        b"9;x=y\r\ndata: 1\n\n\r\n",
        b"8\r\ndata: 1\n\n\r\n",
        b"a\r\ndata: 1\n\n\r\n",
        b"-9\r\ndata: 1\n\n\r\n",
        b"0x9\r\ndata: 1\n\n\r\n",
        b"0000000000000009\r\ndata: 1\n\n\r\n",
        chunk(b"data: 1\n\n").replace(b"\r\n", b"\n"),
    ],
)
def test_whatever_else_comes_is_left_to_the_readers(piece: bytes) -> None:
    """Halves, several, other fields, bad sizes."""
    assert event_in_chunk(piece) is None


CONTENT = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"event: ", b"data", b"{}", b'{"a": 1}', b"x", b"\r", b"\n", b"\r\n", b"\n\n", b":", b" "]
    ),
    max_size=8,
).map(b"".join)
PIECES = st.one_of(
    CONTENT.map(chunk),
    st.builds(lambda content: chunk(b"data: " + content + b"\n\n"), CONTENT),
    st.builds(lambda content, size: b"%x\r\n%b\r\n" % (size, content), CONTENT, st.integers(0, 40)),
    st.binary(max_size=40),
)


@given(PIECES)
@example(chunk(b"data: \xef\xbb\xbf\n\n"))
def test_what_is_seen_is_what_the_readers_find(piece: bytes) -> None:
    """Never anything else, and afterwards they stand where they stood."""
    seen = event_in_chunk(piece)
    if seen is None:
        return
    text, content_bytes = seen
    try:
        found, size, is_between = as_readers_see(piece)
    except HttpInvalid:
        raise AssertionError(f"{piece!r} was seen as {text!r}") from None
    assert (found, size, is_between) == ([text], content_bytes, True)
