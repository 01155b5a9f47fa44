"""What has the usual form needs no further check; what has not is not thereby wrong."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import pytest
from hypothesis import given

from services.events.codec import encode, read_object
from services.events.exchange import ExchangeCounted, UsageRecorded
from services.events.turn import TurnRequested
from services.events.usual import is_union, plain_types, usual_form
from tests.support.event_values import any_event
from tests.support.records import usage_json

GOOD = read_object(usage_json())
has_usual_form = usual_form(UsageRecorded)


class Colour(StrEnum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Inner:
    number: int | None


@dataclasses.dataclass(frozen=True)
class Everything:
    SCHEMA: ClassVar[str] = "wiremeter.everything/1"

    colour: Colour
    names: tuple[str, ...]
    numbers: Mapping[str, int | float]
    inner: Inner


def everything(**members: object) -> dict[str, object]:
    usual = {"colour": "red", "names": ["a"], "numbers": {"x": 1, "y": 0.5}, "inner": {"number": 1}}
    return {"schema": Everything.SCHEMA, **usual, **members}


@given(any_event())
def test_what_our_writers_write_is_usual(event: Any) -> None:
    """Of the kinds whose members can be told at a look."""
    members = read_object(encode(event))
    is_usual = usual_form(type(event))(members)
    if isinstance(event, UsageRecorded | ExchangeCounted):
        assert is_usual


@pytest.mark.parametrize(
    "change",
    [
        {"names": []},
        {"numbers": {}},
        {"inner": {"number": None}},
    ],
)
def test_what_may_be_empty_may_be_empty(change: dict[str, object]) -> None:
    """It is as usual as what is full."""
    assert usual_form(Everything)(everything(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "wiremeter.everything/2"},
        {"schema": None},
        {"colour": "green"},
        {"colour": None},
        {"names": "a"},
        {"names": None},
        {"names": ["a", 1]},
        {"numbers": []},
        {"numbers": {"x": True}},
        {"numbers": {"x": None}},
        {"inner": None},
        {"inner": {}},
        {"inner": {"other": 1}},
        {"inner": {"number": True}},
        {"inner": {"number": 1, "more": 2}},
        {"inner": "number"},
        {"more": 1},
    ],
)
def test_everything_else_is_not(change: dict[str, object]) -> None:
    """A wrong schema, type, word or object, something more."""
    assert usual_form(Everything)(everything())
    assert not usual_form(Everything)(everything(**change))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_member_must_be_there(name: str) -> None:
    """Even one that has a default."""
    assert has_usual_form(GOOD)
    assert not has_usual_form({key: value for key, value in GOOD.items() if key != name})
    assert not has_usual_form({**{key: value for key, value in GOOD.items() if key != name}, "novelty": 1})


def test_the_schema_is_first() -> None:
    """The record is published with it in front."""
    assert not has_usual_form(dict(reversed(GOOD.items())))


def test_whole_numbers_for_measurements_are_converted_elsewhere() -> None:
    """JSON does not tell 5 from 5.0; the codec makes the one of the other."""
    timing = {"started_at": "x", "first_byte_ms": None, "duration_ms": 5}
    assert not has_usual_form({**GOOD, "timing": timing})
    assert has_usual_form({**GOOD, "timing": {**timing, "duration_ms": 5.0}})


def test_kinds_that_cannot_be_told_at_a_look_are_never_usual() -> None:
    """A list of objects: the codec reads them as it always does."""
    members = {"schema": TurnRequested.SCHEMA, "turn_id": "t", "model": None, "messages": [], "deadline_s": 1.0}
    assert not usual_form(TurnRequested)({**members, "messages": [{"role": "user", "text": "x"}]})


def test_plain_values_are_those_that_are_taken_as_they_are() -> None:
    """Exact types, for bool is an int."""
    assert plain_types(int | None) == {int, type(None)}
    assert plain_types(Colour) == set()
    assert (is_union(int | None), is_union(int)) == (True, False)
