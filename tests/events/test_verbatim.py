"""What matches is what the codec would write again; what our writers write of ordinary events matches."""

import dataclasses
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.events.codec import checked, encode, read_object
from services.events.exchange import ExchangeCounted, UsageRecorded
from services.events.lifecycle import ProcessBeat
from services.events.verbatim import NUMBER_END, has_each_name_once, verbatim
from tests.support.event_values import values_of
from tests.support.records import exchange_record, usage_json, usage_record

WANTED = ("at", "usage", "client.uid", "turn_id")
USAGE = verbatim(UsageRecorded, WANTED)
EXCHANGE = verbatim(ExchangeCounted, ("at",))
GOOD = usage_json()
FRAGMENTS = [b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b" ", b"0", b"1", b"-", b".", b"e5", b"null", b"true"]
FRAGMENTS += [b"\\u0041", b"\xff", b"\xc3\xa4", b"\n", b"\x7f", b'"a":1,', b'"input_tokens":2,', b'"more":1,', b"1.5"]


class Colour(StrEnum):
    RED = "red"
    OFF_WHITE = "off.white"


@dataclasses.dataclass(frozen=True)
class Inner:
    number: int | float | None
    is_true: bool = True


@dataclasses.dataclass(frozen=True)
class Everything:
    SCHEMA: ClassVar[str] = "wiremeter.everything/1"

    colour: Colour
    names: tuple[str, ...]
    numbers: Mapping[str, int | float]
    inner: Inner


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def assert_codec_agrees(
    pattern: re.Pattern[bytes], kind: type[UsageRecorded] | type[ExchangeCounted], data: bytes
) -> None:
    """What matches is written by the codec exactly so, and its groups are what the codec reads."""
    found = pattern.fullmatch(data)
    if found is None or not is_utf8(data):
        return
    members = read_object(data)
    if kind is UsageRecorded and not has_each_name_once(found[3], orjson.loads(found[3])):
        return
    assert orjson.dumps(checked(kind, members)) == data
    assert data == b'{"schema":"%b",%b' % (kind.SCHEMA.encode(), found[1])
    assert orjson.loads(found[2]) == members["at"]


@given(values_of(UsageRecorded), values_of(ExchangeCounted))
def test_what_matches_is_what_the_codec_writes(usage: UsageRecorded, exchange: ExchangeCounted) -> None:
    """Whatever values their types allow."""
    assert_codec_agrees(USAGE, UsageRecorded, encode(usage))
    assert_codec_agrees(EXCHANGE, ExchangeCounted, encode(exchange))


@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.lists(st.sampled_from(FRAGMENTS), max_size=3))
@example(GOOD.index(b'"output_tokens"'), 0, [b'"input_tokens":2,'])
def test_damage_is_not_taken_for_an_event(position: int, length: int, fragments: list[bytes]) -> None:
    """A piece of a good record is cut out and replaced by what means something in JSON."""
    data = GOOD[:position] + b"".join(fragments) + GOOD[position + length :]
    assert_codec_agrees(USAGE, UsageRecorded, data)


@given(st.text("0123456789-+.eE", max_size=20) | st.floats(allow_nan=False).map(str) | st.integers().map(str))
@example("-0")
@example("-0.0")
@example("5.0")
@example("0.001")
@example("123456789.123")
@example("-999999999999")
@example("1000000000000")
@example("9223372036854775808")
def test_a_number_has_the_only_form_in_which_it_is_written(number: str) -> None:
    """Else the same record would not be the same bytes."""
    data = GOOD.replace(b'"output_tokens":77', f'"output_tokens":{number}'.encode())
    assert_codec_agrees(USAGE, UsageRecorded, data)
    assert not USAGE.fullmatch(data) or -NUMBER_END < float(number) < NUMBER_END
    data = GOOD.replace(b'"duration_ms":1830.2', f'"duration_ms":{number}'.encode())
    assert_codec_agrees(USAGE, UsageRecorded, data)


def test_ordinary_records_match_and_their_members_are_found() -> None:
    """Of both kinds, with and without what may be missing."""
    found = USAGE.fullmatch(GOOD)
    assert found is not None
    assert found.groups()[1:] == (
        b'"2026-11-23T17:40:11.123456Z"',
        b'{"input_tokens":1514,"output_tokens":77}',
        b"998",
        b"null",
    )
    assert USAGE.fullmatch(encode(usage_record(usage={}, finish_reasons=(), http_status=None, model="größer")))
    assert USAGE.fullmatch(encode(usage_record(usage={"x": 0.5, "y_2": -1, "z": 5.0}, anomalies=("a", "b"))))
    assert EXCHANGE.fullmatch(encode(exchange_record()))


def test_all_kinds_of_members_are_known() -> None:
    """Words, lists, mappings, parts, and truth."""
    some = Everything(colour=Colour.OFF_WHITE, names=("a", ""), numbers={"x": 1, "y": 0.5}, inner=Inner(None))
    found = verbatim(Everything, ("colour", "inner.is_true")).fullmatch(encode(some))
    assert found is not None
    assert found.groups()[1:] == (b'"off.white"', b"true")
    assert not verbatim(Everything, ()).fullmatch(encode(some).replace(b"off.white", b"off-white"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"schema"', b'{ "schema"'),
        (b"usage/1", b"usage/2"),
        (b'"outcome":"ok"', b'"outcome":"fine"'),
        (b'"provider":"gcp.gen_ai"', b'"provider":null'),
        (b'"host":"d', b'"host":"\\u0064'),
        (b'"host":"d', b'"host":"\t'),
        (b'"http_status":200', b'"http_status":true'),
        (b'"http_status":200', b'"http_status":0200'),
        (b'"duration_ms":1830.2', b'"duration_ms":1830'),
        (b'"duration_ms":1830.2', b'"duration_ms":1830.20'),
        (b'"turn_id":null', b'"turn_id":null,"more":1'),
        (b'"trace_id":null,', b""),
        (b'"finish_reasons":["STOP"]', b'"finish_reasons":["STOP",1]'),
        (b'"input_tokens":1514', b'"input tokens":1514'),
        (b'"input_tokens":1514', b'"input_tokens":true'),
    ],
)
def test_everything_else_is_for_the_codec(old: bytes, new: bytes) -> None:
    """Spaces, escapes, other types, other members, other names."""
    assert old in GOOD
    assert not USAGE.fullmatch(GOOD.replace(old, new))


def test_a_name_that_comes_twice_is_told_by_counting() -> None:
    """JSON lets the last one count."""
    twice = b'{"a":1,"b":2,"a":3}'
    assert not has_each_name_once(twice, orjson.loads(twice))
    assert has_each_name_once(b'{"a":1,"b":2}', {"a": 1, "b": 2})
    assert has_each_name_once(b"{}", {})


def test_values_of_any_type_never_match() -> None:
    """What a process says of itself may be anything."""
    beat = ProcessBeat(process="p", pid=1, version="1", at="x", started_at="x", missing=(), facts={})
    pattern = verbatim(ProcessBeat, ())
    assert pattern.fullmatch(encode(beat))
    assert not pattern.fullmatch(encode(dataclasses.replace(beat, facts={"a": 1})))


def test_a_member_that_is_not_there_is_a_mistake_of_ours() -> None:
    """It would be found in nobody."""
    with pytest.raises(AssertionError, match="not all members of UsageRecorded"):
        verbatim(UsageRecorded, ("novelty",))
