"""Connect's envelopes, in any split."""

import json
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.lsrunner.envelopes import (
    End,
    EnvelopeError,
    EnvelopeReader,
    JsonObject,
    RpcFailure,
    encode_envelope,
    failure_in,
    parse_object,
)

END = b"\x02\0\0\0\x02{}"
messages = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=5)


def pieces_of(body: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, end in zip(edges, edges[1:], strict=False):
        yield body[start:end]


def read(pieces: Iterator[bytes]) -> list[JsonObject | End]:
    reader = EnvelopeReader()
    found = [message for piece in pieces for message in reader.feed(piece)]
    reader.end()
    return found


@given(messages, st.lists(st.integers(min_value=0), max_size=20))
def test_messages_do_not_depend_on_how_the_stream_was_split(sent: list[dict[str, str]], cuts: list[int]) -> None:
    body = b"".join(map(encode_envelope, sent)) + END
    assert read(pieces_of(body, cuts)) == [*sent, End(failure=None)]


@given(messages)
def test_messages_come_out_byte_by_byte(sent: list[dict[str, str]]) -> None:
    body = b"".join(map(encode_envelope, sent)) + END
    assert read(body[i : i + 1] for i in range(len(body))) == [*sent, End(failure=None)]


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0), max_size=5))
def test_noise_is_an_error_or_messages_and_nothing_else(noise: bytes, cuts: list[int]) -> None:
    reader = EnvelopeReader(message_bytes_max=1000)
    try:
        for piece in pieces_of(noise, cuts):
            for message in reader.feed(piece):
                assert isinstance(message, dict | End)
        reader.end()
    except EnvelopeError:
        pass


def test_a_failure_is_in_the_last_envelope() -> None:
    trailer = json.dumps({"error": {"code": "unknown", "message": "reactive state is disabled"}}).encode()
    body = struct.pack(">BI", 2, len(trailer)) + trailer
    assert EnvelopeReader().feed(body) == [
        End(failure=RpcFailure(code="unknown", message="reactive state is disabled"))
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x01\0\0\0\x02{}", "compressed"),
        (b"\x04\0\0\0\x02{}", "unknown"),
        (b"\0\xff\xff\xff\xff", "envelope of 4294967295 bytes exceeds"),
        (b"\0\0\0\0\x01{", "no JSON"),
        (b"\0\0\0\0\x02[]", "list, not an object"),
        (END + b"\0", "1 bytes after the last envelope"),
        (b"\0\0\0\0\x05" + b"[" * 5, "no JSON"),
    ],
)
def test_what_cannot_be_is_named(body: bytes, words: str) -> None:
    with pytest.raises(EnvelopeError, match=words):
        EnvelopeReader().feed(body)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_stream_without_its_end_is_an_error(cut: int) -> None:
    reader = EnvelopeReader()
    reader.feed((encode_envelope({"a": 1}) + END)[:-cut])
    with pytest.raises(EnvelopeError, match="without its last envelope"):
        reader.end()


def test_the_limit_itself_is_allowed() -> None:
    envelope = encode_envelope({"a": "x" * 50})
    assert EnvelopeReader(message_bytes_max=len(envelope) - 5).feed(envelope) == [{"a": "x" * 50}]
    with pytest.raises(EnvelopeError, match=f"exceeds {len(envelope) - 6}"):
        EnvelopeReader(message_bytes_max=len(envelope) - 6).feed(envelope)


def test_an_empty_message_is_an_empty_object() -> None:
    assert parse_object(b"") == {}
    assert EnvelopeReader().feed(b"\0\0\0\0\0") == [{}]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (None, None),
        ({}, RpcFailure(code="unknown", message="")),
        ("broken", RpcFailure(code="unknown", message="")),
        ({"code": 5, "message": "x"}, RpcFailure(code="unknown", message="x")),
        ({"code": "internal"}, RpcFailure(code="internal", message="")),
    ],
)
def test_an_error_of_any_shape_is_a_failure(error: object, failure: RpcFailure | None) -> None:
    assert failure_in(error) == failure


def test_a_reader_shows_where_it_stands() -> None:
    reader = EnvelopeReader()
    reader.feed(b"\0\0")
    assert repr(reader) == "<EnvelopeReader open, 2 bytes waiting>"
