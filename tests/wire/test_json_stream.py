"""Elements of a JSON array, and lines of JSON, are handed out as they finish, however they are cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire.json_stream import (
    JsonElementReader,
    JsonElementTooLarge,
    JsonLineReader,
    JsonMalformed,
    ValueScanner,
)
from tests.support.splits import CUTS, cut_at, every_split

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=12) | st.sampled_from(['"', "\\", '\\"', "{[", "]},"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


# Around the length up to which strings are passed over at once.
WORDS = st.sampled_from(
    [b"", b"a", rb"\"", rb"\\", rb"\\\\\"", b"{", b"]", b"x" * 62, b"x" * 64, b"x" * 65, rb"\n" + b"y" * 70]
)
STRINGS = st.lists(WORDS, max_size=3).map(lambda words: b'"%b"' % b"".join(words))
PIECES_OF_VALUES = st.lists(STRINGS | st.sampled_from([b"{", b"[", b"}", b"]", b", ", b"12", b'"', b"\\"]), max_size=40)


def end_of_value(data: bytes) -> int:
    """Follow brackets and strings one byte at a time."""
    depth, in_string, is_escaped = 0, False, False
    for position, byte in enumerate(data):
        if in_string:
            is_escaped, in_string = byte == ord("\\") and not is_escaped, byte != ord('"') or is_escaped
        elif byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
        elif byte == ord('"'):
            in_string = True
        else:
            continue
        if not depth and not in_string:
            return position + 1
    return -1


@given(st.sampled_from([b"{", b"[", b'"']), PIECES_OF_VALUES.map(b"".join), CUTS)
def test_a_value_ends_where_its_brackets_do(opening: bytes, rest: bytes, cuts: list[int]) -> None:
    """Whatever strings are in it, however it is cut."""
    data = opening + rest
    scanner, before, ends = ValueScanner(), 0, []
    for piece in cut_at(data, cuts):
        end = scanner.end_of(piece, 0)
        if end >= 0:
            ends.append(before + end)
            break
        before += len(piece)
    expected = end_of_value(data)
    assert ends == ([] if expected < 0 else [expected])


def elements_in(pieces: list[bytes]) -> list[object]:
    reader = JsonElementReader()
    return [json.loads(element) for piece in pieces for element in reader.feed(piece)]


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 1, "\t"]), st.booleans(), CUTS)
def test_elements_are_those_that_a_parser_of_the_whole_finds(
    values: list[object], indent: int | str | None, as_ascii: bool, cuts: list[int]
) -> None:
    body = json.dumps(values, indent=indent, ensure_ascii=as_ascii).encode()
    assert elements_in(cut_at(body, cuts)) == json.loads(body)


@given(st.dictionaries(TEXTS, VALUES, max_size=4), CUTS)
def test_a_body_that_is_one_object_is_its_only_element(value: dict[str, object], cuts: list[int]) -> None:
    body = b" \r\n" + json.dumps(value).encode() + b"\n"
    reader = JsonElementReader()
    found = [element for piece in cut_at(body, cuts) for element in reader.feed(piece)]
    assert [json.loads(element) for element in found] == [value]
    assert reader.is_closed
    assert reader.is_array is False


def test_an_element_is_handed_out_with_its_last_byte() -> None:
    reader = JsonElementReader()
    assert reader.feed(b'[{"a": "}"}') == [b'{"a": "}"}']
    assert reader.feed(b",\r\n{") == []
    assert reader.feed(b"}") == [b"{}"]
    assert not reader.is_closed
    assert reader.feed(b"]\n") == []
    assert reader.is_closed


def test_a_cut_array_gives_the_elements_before_the_cut() -> None:
    body = b'[{"a": [1, 2]}\n,\n{"b": "x\\"y"},3, "z"]'
    for cut in range(len(body)):
        found = elements_in([body[:cut]])
        assert found == json.loads(body)[: len(found)]
    for pieces in every_split(body):
        assert elements_in(pieces) == [{"a": [1, 2]}, {"b": 'x"y'}, 3, "z"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_skipped(mark: bytes) -> None:
    for pieces in every_split(mark + b"[1]"):
        assert elements_in(pieces) == [1]


@pytest.mark.parametrize(
    "body",
    [b"hello", b"1", b'"text"', b"[1 2]", b"[,1]", b"[1,]", b"[1}", b"[1,,2]", b"{}{}", b"[]x", b"[[1]:2]"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    for pieces in every_split(body):
        with pytest.raises(JsonMalformed):
            elements_in(pieces)


@given(st.binary(max_size=200), CUTS)
def test_noise_is_refused_or_taken_apart_and_nothing_else(noise: bytes, cuts: list[int]) -> None:
    reader = JsonElementReader()
    try:
        for piece in cut_at(b"[" + noise, cuts):
            reader.feed(piece)
    except JsonMalformed:
        pass


@pytest.mark.parametrize("body", [b'["' + b"x" * 99 + b'"]', b"[" + b"1" * 101, b'{"a": "' + b"x" * 100])
def test_an_element_beyond_the_limit_is_refused_by_name(body: bytes) -> None:
    for pieces in every_split(body):
        reader = JsonElementReader(element_bytes_max=100)
        with pytest.raises(JsonElementTooLarge, match=r"JSON element of 10\d bytes or more exceeds 100"):
            for piece in pieces:
                reader.feed(piece)


@given(st.lists(VALUES, max_size=6), st.sampled_from([b"\n", b"\r\n", b"\n\n"]), CUTS)
def test_lines_are_values_one_by_one(values: list[object], line_end: bytes, cuts: list[int]) -> None:
    body = b"".join(json.dumps(value).encode() + line_end for value in values)
    reader = JsonLineReader()
    found = [json.loads(line) for piece in cut_at(body, cuts) for line in reader.feed(piece)]
    assert found == values
    assert reader.end() is None


def test_the_end_hands_over_the_line_without_an_end() -> None:
    reader = JsonLineReader()
    assert reader.feed(b'{"a": 1}\n{"b"') == [b'{"a": 1}']
    assert reader.feed(b": 2}") == []
    assert reader.end() == b'{"b": 2}'


@pytest.mark.parametrize("pieces", [[b"x" * 101 + b"\n"], [b"x" * 60, b"x" * 60], [b"x" * 60, b"x" * 60 + b"\n"]])
def test_a_line_beyond_the_limit_is_refused_by_name(pieces: list[bytes]) -> None:
    reader = JsonLineReader(line_bytes_max=100)
    with pytest.raises(JsonElementTooLarge, match=r"JSON line of \d+ bytes or more exceeds 100"):
        for piece in pieces:
            reader.feed(piece)
