"""A few members of a passing JSON object are what a parser of the whole body would have found there."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire.json_members import JsonMemberReader
from services.wire.json_stream import JsonMalformed
from tests.support.splits import CUTS, cut_at, every_split

WANTED = [("model",), ("stream",), ("requestId",), ("request", "labels", "model_enum"), ("request", "id")]
KEYS = st.sampled_from(["model", "stream", "requestId", "request", "labels", "model_enum", "id", 'm"odel', "ä", ""])
TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=8) | st.sampled_from(['"', "\\", '{"model": 1}', "]}"])
SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e6, 1e6) | TEXTS


class Pairs(list[tuple[str, object]]):
    """A JSON object with all its members, duplicates included."""


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=5).map(Pairs),
    max_leaves=20,
)
OBJECTS = st.lists(st.tuples(KEYS, VALUES), max_size=8).map(Pairs)


def written(value: object, as_ascii: bool, space: str) -> str:
    """Write JSON as `json.dumps` does, with duplicate keys where there are any."""
    if isinstance(value, Pairs):
        members = [f"{json.dumps(key, ensure_ascii=as_ascii)}{space}:{written(v, as_ascii, space)}" for key, v in value]
        return "{" + f"{space},{space}".join(members) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(written(item, as_ascii, space) for item in value) + "]"
    return json.dumps(value, ensure_ascii=as_ascii)


def first_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return dict(reversed(pairs))


def by_a_parser(body: bytes) -> dict[tuple[str, ...], object]:
    """Find the wanted scalars with `json.loads`; of duplicates the first."""
    document = json.loads(body, object_pairs_hook=first_of)
    found = {}
    for path in WANTED:
        value: object = document
        for key in path:
            value = value.get(key, []) if isinstance(value, dict) else []
        if not isinstance(value, (dict, list)):
            found[path] = value
    return found


def read(pieces: list[bytes]) -> JsonMemberReader:
    reader = JsonMemberReader(WANTED)
    for piece in pieces:
        reader.feed(piece)
    return reader


@given(OBJECTS, st.booleans(), st.sampled_from(["", " ", "\r\n\t"]), CUTS)
def test_members_are_those_that_a_parser_of_the_whole_finds(
    document: Pairs, as_ascii: bool, space: str, cuts: list[int]
) -> None:
    body = written(document, as_ascii, space).encode()
    reader = read(cut_at(body, cuts))
    assert reader.found == by_a_parser(body)
    assert reader.is_done


@given(OBJECTS, st.integers(0, 400))
def test_a_cut_body_gives_only_what_stood_before_the_cut(document: Pairs, cut: int) -> None:
    body = written(document, False, " ").encode()
    found = read([body[:cut]]).found
    assert found.items() <= by_a_parser(body).items()


SCRAPS = st.sampled_from(
    [
        b'"model"',
        b'"request"',
        b'"id"',
        b'"labels"',
        b'"x"',
        b'"m\xc3\xa4"',
        b'"m\xff"',
        b'"a\nb"',
        b'"\\u0069d"',
        b'"\x7f"',
    ]
    + [b'"%b"' % (b"k" * size) for size in (63, 64, 65, 300)]
    + [b":", b":", b":", b",", b",", b"{", b"}", b"[", b"]", b" ", b"\r\n", b"1", b"true", b'"', b"\\"]
)


@given(st.lists(SCRAPS, max_size=30).map(b"".join), st.sampled_from([9, 66, 67, 4096]), CUTS)
def test_what_comes_whole_is_read_as_what_comes_byte_by_byte(
    scraps: bytes, value_bytes_max: int, cuts: list[int]
) -> None:
    """JSON or not: the same is found, and the same is refused."""
    outcomes = []
    body = b"{" + scraps
    for pieces in ([body], [bytes([byte]) for byte in body], cut_at(body, cuts)):
        reader, refusal = JsonMemberReader(WANTED, value_bytes_max=value_bytes_max), ""
        try:
            for piece in pieces:
                reader.feed(piece)
        except JsonMalformed as error:
            refusal = str(error)
        outcomes.append((reader.found, reader.is_done, refusal))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.parametrize("name", ["model", "\\u006dodel", "m\\u006fd\\u0065l"])
def test_a_key_may_be_spelt_with_escapes(name: str) -> None:
    body = f'{{"x": [1, {{"model": "no"}}], "{name}": "a\\"b\\\\c\\u00e4\\ud83d\\ude00", "stream": true}}'.encode()
    for pieces in every_split(body):
        assert read(pieces).found == {("model",): 'a"b\\cä😀', ("stream",): True}


def test_nothing_is_read_once_everything_was_found() -> None:
    reader = JsonMemberReader([("model",)])
    reader.feed(b'{"model": "m", ')
    assert reader.is_done
    reader.feed(b"and now something that is no JSON at all")
    assert reader.found == {("model",): "m"}


def test_a_value_that_is_no_scalar_is_seen_and_left_out() -> None:
    reader = read([b'{"model": {"model": "inner"}, "model": "second", "stream": [true]}'])
    assert reader.found == {}


def test_a_value_beyond_the_limit_is_left_out() -> None:
    reader = JsonMemberReader([("model",), ("stream",)], value_bytes_max=10)
    reader.feed(b'{"model": "' + b"x" * 1000 + b'", "stream": 1' + b"0" * 1000 + b"}")
    assert reader.found == {}
    assert reader.is_done


@pytest.mark.parametrize("body", [b"[]", b"hello", b'{"a" 1}', b'{"a": ,}', b'{"a": 1 "b"}', b"{a: 1}", b'{"a":}'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    for pieces in every_split(body):
        reader = JsonMemberReader(WANTED)
        with pytest.raises(JsonMalformed):
            for piece in pieces:
                reader.feed(piece)
        assert reader.is_done


@given(st.binary(max_size=200), CUTS)
def test_noise_is_refused_or_passes(noise: bytes, cuts: list[int]) -> None:
    reader = JsonMemberReader(WANTED)
    try:
        for piece in cut_at(b"{" + noise, cuts):
            reader.feed(piece)
    except JsonMalformed:
        pass


def test_a_body_of_megabytes_is_not_kept() -> None:
    """A conversation with pictures in it passes by without a copy being made of it."""
    piece = b"x" * 65536
    reader = JsonMemberReader([("model",)])
    tracemalloc.start()
    try:
        reader.feed(b'{"contents": [{"data": "')
        for _ in range(400):
            reader.feed(piece)
        reader.feed(b'"}], "model": "m"}')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.found == {("model",): "m"}
    assert peak < 1_000_000
