"""Records become rows, or are refused with a reason that says nothing of their content."""

import dataclasses

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.events.codec import decode, encode, read_object
from services.events.exchange import ByteCount, Client, UsageRecorded
from services.events.usage import Outcome
from services.events.verbatim import verbatim
from services.ledger.entry import (
    COUNT_MAX,
    VERBATIM_MEMBERS,
    EntryInvalid,
    ExchangeSeries,
    Series,
    exchange_entry,
    members_from,
    messages_from,
    record_from,
    usage_entry,
    verbatim_entry,
)
from tests.support.event_values import values_of
from tests.support.records import AT, exchange_record, members_of, usage_members, usage_record

VERBATIM = verbatim(UsageRecorded, VERBATIM_MEMBERS)


def test_a_record_is_published_as_it_is_kept_with_its_number_second() -> None:
    """Schema, seq, then the record as mitm wrote it."""
    record = usage_record()
    entry = usage_entry(members_of(record))
    (message,) = messages_from(812, [entry.body])
    assert message.startswith(b'{"schema":"wiremeter.usage/1","seq":812,"event_id":"01JDUSAGE",')
    assert orjson.loads(message) == members_from(812, entry.body)
    assert decode(UsageRecorded, message) == record


def test_a_row_knows_its_time_and_its_series() -> None:
    """Microseconds since 1970; names that are empty are none."""
    record = usage_record(model="", client=Client(uid=998, label=""), outcome=Outcome.ERROR)
    entry = usage_entry(members_of(record))
    assert entry.at_unix_us == 1_795_455_611_123_456
    assert entry.series == Series("gcp.gen_ai", None, None, 998, "error")


@given(st.datetimes(timezones=st.timezones()))
def test_any_offset_is_the_same_moment(moment: object) -> None:
    """`at` need not be UTC to be right."""
    entry_or_none = None
    try:
        entry_or_none = usage_entry(usage_members(at=moment.isoformat()))  # type: ignore[attr-defined]
    except EntryInvalid:
        assert not 2000 < moment.year < 8999  # type: ignore[attr-defined]
    if entry_or_none is not None:
        assert abs(entry_or_none.at_unix_us / 1e6 - moment.timestamp()) < 0.001  # type: ignore[attr-defined]


@pytest.mark.parametrize("at", ["", "yesterday", "2026-11-23T17:40:11", "1969-01-01T00:00:00Z", "9999-01-01T00:00:00Z"])
def test_a_record_without_a_time_is_refused(at: str) -> None:
    """No offset is no moment; a clock that is off by ages is damage."""
    with pytest.raises(EntryInvalid, match="^at "):
        usage_entry(usage_members(at=at))


@pytest.mark.parametrize("count", [COUNT_MAX + 1, -COUNT_MAX - 1, float("inf"), float("nan")])
def test_counts_that_no_response_has_are_refused(count: float) -> None:
    """Sums must not overflow."""
    with pytest.raises(EntryInvalid, match="^count input_tokens exceeds"):
        usage_entry({**usage_members(), "usage": {"input_tokens": count}})


def test_a_user_that_cannot_be_is_refused() -> None:
    """The ledger's columns are 64 bits wide."""
    with pytest.raises(EntryInvalid, match="uid"):
        usage_entry({**usage_members(), "client": {"uid": 1 << 70, "label": None}})


@pytest.mark.parametrize(("status", "status_class"), [(200, 2), (404, 4), (None, None), (101, 1)])
def test_an_exchange_is_counted_by_host_endpoint_and_class_of_status(status: int, status_class: int) -> None:
    """That is all that is kept of it."""
    entry = exchange_entry(exchange_record(http_status=status))
    assert entry.series == ExchangeSeries("cloudcode-pa.googleapis.com", "fetchUserInfo", status_class)
    assert (entry.bytes_up, entry.bytes_down) == (200, 1000)


@pytest.mark.parametrize(
    "wrong", [{"bytes": ByteCount(up=-1)}, {"bytes": ByteCount(down=1 << 62)}, {"http_status": -5}]
)
def test_an_exchange_beyond_the_limits_is_refused(wrong: dict[str, object]) -> None:
    """As records are."""
    with pytest.raises(EntryInvalid):
        exchange_entry(exchange_record(**wrong))


@given(values_of(UsageRecorded) | values_of(UsageRecorded).map(lambda each: dataclasses.replace(each, at=AT)))
@example(usage_record())
@example(usage_record(model=None, client=Client()))
@example(usage_record(model="", provider="größer"))
@example(usage_record(client=Client(label="")))
@example(usage_record(client=Client(uid=1 << 32)))
@example(usage_record(client=Client(uid=-1)))
@example(usage_record(usage={}))
@example(usage_record(usage={"input_tokens": COUNT_MAX + 1}))
@example(usage_record(usage={"input_tokens": 0.5}))
@example(usage_record(at="2026-11-23T17:40:11"))
def test_a_record_that_was_not_parsed_is_the_same_row(record: UsageRecorded) -> None:
    """Or none yet: it is looked at, and refused if it has to be."""
    data = encode(record)
    found = VERBATIM.fullmatch(data)
    entry = found and verbatim_entry(found.groups())
    if entry is not None:
        assert entry == usage_entry(members_of(record))
    elif found is not None:
        assert record_from(found.groups()) == read_object(data)
        has_odd_values = record.client.label == "" or not is_usable(record)
        assert has_odd_values


def is_usable(record: UsageRecorded) -> bool:
    try:
        usage_entry(members_of(record))
    except EntryInvalid:
        return False
    return True


def test_a_count_that_is_said_twice_has_to_be_looked_at() -> None:
    """JSON lets the last one count, and the row says it once."""
    data = encode(usage_record()).replace(b'"output_tokens"', b'"input_tokens"')
    found = VERBATIM.fullmatch(data)
    assert found is not None
    assert verbatim_entry(found.groups()) is None
