"""Members of a protobuf message come out as they were written, and what is none is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire.protobuf import (
    FIELDS_MAX,
    Allowance,
    ProtobufInvalid,
    Shape,
    enum,
    fields_in,
    int32,
    message_of,
    messages_of,
    object_in,
    present_int32,
    text,
)
from tests.support.protobuf import Member, field, message, varint

SHAPE: Shape = {
    1: ("count", int32),
    2: ("index", present_int32),
    3: ("name", text),
    4: ("reason", enum({1: "STOP", -1: "NEVER"})),
    5: ("inner", message_of({1: ("count", int32), 2: ("index", present_int32)})),
    6: ("list", messages_of({1: ("count", int32)})),
}

NUMBERS = st.integers(1, 2**29 - 1)
FIELDS = st.tuples(NUMBERS, st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=30)))
FIXED = NUMBERS.flatmap(
    lambda number: st.one_of(
        st.binary(min_size=8, max_size=8).map(lambda value: varint(number * 8 + 1) + value),
        st.binary(min_size=4, max_size=4).map(lambda value: varint(number * 8 + 5) + value),
    )
)


@given(st.lists(st.tuples(FIELDS, st.lists(FIXED, max_size=1)), max_size=8))
def test_fields_are_those_that_were_written(written: list[tuple[tuple[int, Member], list[bytes]]]) -> None:
    """Those of a fixed size are left out."""
    body = b"".join(b"".join(fixed) + field(number, value) for (number, value), fixed in written)
    assert list(fields_in(body, Allowance())) == [each for each, _ in written]


INT32 = st.integers(-(2**31), 2**31 - 1)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        1: INT32,
        2: INT32,
        3: st.text(max_size=9),
        4: st.sampled_from([-1, 0, 1, 2]),
        5: st.fixed_dictionaries({}, optional={1: INT32, 2: INT32}),
        6: st.lists(st.fixed_dictionaries({1: st.integers(1, 9)}), min_size=1, max_size=3),
        7: st.binary(max_size=20),
    },
)


def as_json(members: dict[int, object]) -> dict[str, object]:
    """Say what JSON would be made of the members that SHAPE names."""
    found: dict[str, object] = {}
    if members.get(1):
        found["count"] = members[1]
    if 2 in members:
        found["index"] = members[2]
    if members.get(3):
        found["name"] = members[3]
    if members.get(4):
        found["reason"] = {1: "STOP", -1: "NEVER", 2: "2"}[members[4]]  # type: ignore[index]
    if 5 in members:
        found["inner"] = as_json(members[5])  # type: ignore[arg-type]
    if 6 in members:
        found["list"] = [as_json(each) for each in members[6]]  # type: ignore[attr-defined]
    return found


@given(OBJECTS, st.randoms(use_true_random=False))
def test_an_object_is_the_one_that_was_written(members: dict[int, Member], chance: object) -> None:
    """In whatever order its fields come."""
    order = list(members)
    chance.shuffle(order)  # type: ignore[attr-defined]
    assert object_in(message({number: members[number] for number in order}), SHAPE) == as_json(members)  # type: ignore[arg-type]


@given(OBJECTS, OBJECTS)
def test_two_messages_one_behind_the_other_are_one(first: dict[int, Member], second: dict[int, Member]) -> None:
    """As the document has it: the last value counts, lists and messages grow together."""
    merged = dict(first)
    for number, member in second.items():
        if number in merged and number == 5:
            merged[5] = {**merged[5], **member}  # type: ignore[dict-item]
        elif number in merged and number == 6:
            merged[6] = [*merged[6], *member]  # type: ignore[misc]
        else:
            merged[number] = member
    assert object_in(message(first) + message(second), SHAPE) == as_json(merged)  # type: ignore[arg-type]


@given(OBJECTS, st.data())
def test_a_cut_message_never_has_what_was_not_written(members: dict[int, Member], data: st.DataObject) -> None:
    """It is refused, or cut between two fields."""
    body = message(members)
    cut = body[: data.draw(st.integers(0, len(body)))]
    try:
        found = object_in(cut, SHAPE)
    except ProtobufInvalid:
        return
    whole = object_in(body, SHAPE)
    lists = found.pop("list", []), whole.pop("list", [])
    assert found.items() <= whole.items()
    assert lists[0] == lists[1][: len(lists[0])]  # type: ignore[arg-type,index]


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused_and_nothing_else(noise: bytes) -> None:
    try:
        object_in(noise, SHAPE)
    except ProtobufInvalid:
        pass


def test_a_field_of_another_wire_type_is_another_field() -> None:
    body = message({1: "text", 3: 7, 4: "text", 5: 7, 6: 7, 2: "text"})
    assert object_in(body, SHAPE) == {"list": []}


def test_a_text_that_is_not_utf_8_is_a_text() -> None:
    assert object_in(message({3: b"a\xff"}), SHAPE) == {"name": "a\ufffd"}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\x08", "message of 1 bytes ends in a number"),
        (b"\x08\x80", "message of 2 bytes ends in a number"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "number has more than 10 bytes"),
        (b"\x00\x01", "field number 0 is none"),
        (varint(2**32) + b"\x01", "field number 536870912 is none"),
        (b"\x0a\x05abcd", "value of 5 bytes exceeds the 4 that are left"),
        (b"\x0a" + varint(2**63), "value of 9223372036854775808 bytes exceeds the 0"),
        (b"\x09" + bytes(7), "value of 8 bytes exceeds the 7"),
        (b"\x0d" + bytes(3), "value of 4 bytes exceeds the 3"),
        (b"\x0b\x0c", "wire type 3 is none"),
        (b"\x0e", "wire type 6 is none"),
        (b"\x08\x01" * (FIELDS_MAX + 1), f"message has more than {FIELDS_MAX} fields"),
        (field(6, [b"\x08\x01"] * (FIELDS_MAX // 2 + 1)), f"message has more than {FIELDS_MAX} fields"),
    ],
)
def test_what_is_refused_says_why(body: bytes, problem: str) -> None:
    with pytest.raises(ProtobufInvalid, match=problem):
        object_in(body, SHAPE)


def test_as_many_fields_as_may_be_are_read() -> None:
    assert object_in(b"\x08\x01" * FIELDS_MAX, SHAPE) == {"count": 1}
