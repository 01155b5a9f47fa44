"""Events as bytes: what is written is read, what is none is refused, and nothing else ever happens."""

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.codec import EVENT_BYTES_MAX, EventInvalid, checked, decode, encode, read_object, value_from
from services.events.exchange import Client, UsageRecorded
from services.events.lifecycle import ProcessBeat
from services.events.turn import TurnDelta
from tests.support.event_values import EVENTS, any_event
from tests.support.records import usage_json, usage_record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
GOOD = read_object(usage_json())


@given(any_event())
def test_every_event_is_read_as_it_was_written(event: Any) -> None:
    """Whatever its members hold."""
    assert decode(type(event), encode(event)) == event


@given(any_event())
def test_every_event_begins_with_its_schema(event: Any) -> None:
    """Which names the project, the event and its version."""
    assert encode(event).startswith(b'{"schema":"wiremeter.')
    assert encode(event).startswith(b'{"schema":"%b"' % event.SCHEMA.encode())


def test_no_two_events_share_a_schema() -> None:
    """Or one would be read as the other."""
    assert len({kind.SCHEMA for kind in EVENTS}) == len(EVENTS)


@given(st.sampled_from(EVENTS), st.binary(max_size=60) | JSON.map(lambda value: orjson.dumps(value)))
def test_noise_is_refused_and_nothing_worse(kind: Any, noise: bytes) -> None:
    """Any bytes, any JSON."""
    with pytest.raises(EventInvalid):
        decode(kind, noise)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_a_member_of_any_value_is_read_or_refused(name: str, value: object) -> None:
    """And what is read has the type that it should have: it can be written again."""
    try:
        event = decode(UsageRecorded, orjson.dumps(GOOD | {name: value}))
    except EventInvalid:
        return
    assert decode(UsageRecorded, encode(event)) == event


@given(st.sampled_from(sorted(GOOD)))
def test_what_may_be_left_out_has_a_default(name: str) -> None:
    """What may not is named."""
    less = {key: value for key, value in GOOD.items() if key != name}
    required = {
        "schema",
        "event_id",
        "at",
        "exchange_id",
        "provider",
        "dialect",
        "operation",
        "host",
        "outcome",
        "timing",
    }
    if name in required:
        with pytest.raises(EventInvalid, match=name):
            decode(UsageRecorded, less)
    else:
        decode(UsageRecorded, less)


@given(any_event())
def test_an_event_that_is_only_passed_on_stays_as_it_was(event: Any) -> None:
    """Checked, and written again without a value of it ever being made."""
    members = checked(type(event), read_object(encode(event)))
    assert orjson.dumps({"schema": event.SCHEMA} | members) == encode(event)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_what_is_passed_on_is_checked_as_what_is_read(name: str, value: object) -> None:
    """Refused for the same reason, or the same."""
    changed = {**GOOD, name: value}
    try:
        event = decode(UsageRecorded, changed)
    except EventInvalid as error:
        with pytest.raises(EventInvalid, match=f"^{re.escape(str(error))}$"):
            checked(UsageRecorded, changed)
        return
    assert orjson.dumps({"schema": event.SCHEMA} | checked(UsageRecorded, changed)) == encode(event)


@given(st.sets(st.sampled_from(sorted(set(GOOD) - {"schema"}))))
def test_what_is_left_out_is_filled_in(names: set[str]) -> None:
    """Or refused, in both ways."""
    less = {name: value for name, value in GOOD.items() if name not in names}
    try:
        event = decode(UsageRecorded, less)
    except EventInvalid:
        with pytest.raises(EventInvalid):
            checked(UsageRecorded, less)
        return
    assert orjson.dumps({"schema": event.SCHEMA} | checked(UsageRecorded, less)) == encode(event)


def test_a_newer_writer_may_say_more() -> None:
    """Members that we do not know are passed over, inside as well."""
    more = GOOD | {"novelty": 1, "client": {"uid": 7, "colour": "red"}}
    assert decode(UsageRecorded, more).client == Client(uid=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "wiremeter.usage/2"}, "schema is 'wiremeter.usage/2', not 'wiremeter.usage/1'"),
        ({"host": None}, "wiremeter.usage/1.host is None, not of type str"),
        ({"outcome": "fine"}, "wiremeter.usage/1.outcome is 'fine', not one of ok, blocked, error"),
        ({"outcome": 7}, "not of type Outcome"),
        ({"usage": {"input_tokens": True}}, "wiremeter.usage/1.usage.input_tokens is True, not of type"),
        ({"usage": {"input_tokens": None}}, "usage.input_tokens is None"),
        ({"usage": []}, "wiremeter.usage/1.usage is .*, not an object"),
        ({"finish_reasons": "STOP"}, "finish_reasons is 'STOP', not a list"),
        ({"finish_reasons": ["STOP", 1]}, r"finish_reasons\[1\] is 1, not of type str"),
        ({"client": 5}, "wiremeter.usage/1.client is 5, not an object"),
        ({"client": {"uid": 1.5}}, "wiremeter.usage/1.client.uid is 1.5"),
        ({"http_status": "200"}, "http_status is '200', not of type int"),
    ],
)
def test_the_reason_names_the_member_and_what_it_is(change: dict[str, object], words: str) -> None:
    """So that a bug in a writer is found from the log."""
    with pytest.raises(EventInvalid, match=words):
        decode(UsageRecorded, GOOD | change)


def test_a_reason_is_short_however_long_the_value() -> None:
    """It goes into logs."""
    with pytest.raises(EventInvalid) as refused:
        decode(UsageRecorded, GOOD | {"http_status": "x" * 10_000})
    assert len(str(refused.value)) < 200


def test_whole_numbers_are_taken_for_measurements() -> None:
    """JSON does not tell 5 from 5.0."""
    changed = GOOD | {"timing": {"started_at": "x", "duration_ms": 5}}
    assert repr(decode(UsageRecorded, changed).timing.duration_ms) == "5.0"


def test_counts_keep_their_kind() -> None:
    """Tokens are whole, credits need not be."""
    record = usage_record(usage={"input_tokens": 5, "consumed_credits": 0.25, "output_tokens": 0})
    assert dict(decode(UsageRecorded, encode(record)).usage) == dict(record.usage)
    assert b'"input_tokens":5,' in encode(record)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "event is a list, not an object"),
        (b'"x"', "event is a str, not an object"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (EVENT_BYTES_MAX + 1), f"event of {EVENT_BYTES_MAX + 1} bytes exceeds {EVENT_BYTES_MAX}"),
    ],
)
def test_bytes_that_are_no_object_are_refused(data: bytes, words: str) -> None:
    """Before anything of them is used."""
    with pytest.raises(EventInvalid, match=words):
        read_object(data)


def test_parts_of_events_can_be_read_alone() -> None:
    """With the name of where they stand."""
    assert value_from(Client, {"uid": 5}, "here") == Client(uid=5)
    with pytest.raises(EventInvalid, match=r"here\.uid is 'x'"):
        value_from(Client, {"uid": "x"}, "here")


def test_events_of_another_kind_are_refused() -> None:
    """A delta is no heartbeat."""
    delta = b'{"schema":"wiremeter.turn-delta/1","turn_id":"t","number":1,"kind":"text","text":"x"}'
    decode(TurnDelta, delta)
    with pytest.raises(EventInvalid, match="schema is"):
        decode(ProcessBeat, delta)
