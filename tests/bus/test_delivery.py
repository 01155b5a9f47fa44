"""Batches, hellos and marks: what one side writes, the other reads."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bus.delivery import (
    RECORD_END,
    CommitMarked,
    ExchangeBatch,
    HeldEpoch,
    LeftBehind,
    PublisherGreeted,
    batch_from,
    encode_batch,
    read_batch,
    readable,
)
from services.events.codec import EventInvalid, decode, encode, read_object
from services.events.exchange import UsageRecorded
from services.events.verbatim import verbatim
from tests.support.event_values import values_of
from tests.support.records import AT, exchange_record, usage_json

EPOCH = "0123456789abcdef" * 2
JSON_OBJECTS = st.dictionaries(st.text(), st.none() | st.integers(-(2**53), 2**53) | st.text(), max_size=3)


@given(st.integers(1, 2**60), st.lists(JSON_OBJECTS, max_size=5), st.none() | st.integers(0, 2**60))
def test_a_batch_is_read_as_it_was_written(first: int, records: list[dict[str, object]], after: int | None) -> None:
    """Records are joined, not encoded again."""
    left_behind = None if after is None else LeftBehind(epoch="f" * 32, after=after)
    message = encode_batch("mitm-0", EPOCH, first, [orjson.dumps(record) for record in records], left_behind)
    assert message.startswith(b'{"schema":"wiremeter.exchange-batch/1",')
    assert batch_from(read_object(message)) == ExchangeBatch(
        publisher="mitm-0", epoch=EPOCH, first_seq=first, records=records, left_behind=left_behind
    )


RECORD = verbatim(UsageRecorded, ("at",), after=RECORD_END)
BESIDE = len(b'{"schema":"%b",' % UsageRecorded.SCHEMA.encode())


def parsed(record: object) -> object:
    """Return a record as JSON says it, if it was left unparsed."""
    if not isinstance(record, tuple):
        return record
    assert orjson.loads(record[1]) == orjson.loads(b"{" + record[0])["at"]
    return orjson.loads(b'{"schema":"%b",%b' % (UsageRecorded.SCHEMA.encode(), record[0]))


def assert_read_alike(message: bytes) -> None:
    """Unparsed records are the same records; what is refused is refused."""
    try:
        expected = read_object(message)
    except EventInvalid:
        with pytest.raises(EventInvalid):
            read_batch(message, RECORD, BESIDE)
        return
    members = read_batch(message, RECORD, BESIDE)
    records = members.get("records")
    assert (
        members | {"records": [parsed(each) for each in records]} if isinstance(records, list) else members
    ) == expected


def test_records_as_our_writers_write_them_are_left_unparsed() -> None:
    """Between others, too."""
    good, other = usage_json(), encode(exchange_record())
    members = read_batch(encode_batch("mitm-0", "e" * 32, 7, [good] * 3), RECORD, BESIDE)
    assert batch_from(members).first_seq == 7
    assert members["records"] == [(good[BESIDE:], orjson.dumps(AT))] * 3
    unparsed, counted = (good[BESIDE:], orjson.dumps(AT)), orjson.loads(other)
    for records, expected in [
        ([good, other], [unparsed, counted]),
        ([other, b"null", good], [counted, None, unparsed]),
        ([good, other, other, good], [unparsed, counted, counted, unparsed]),
        ([other, other], [counted, counted]),
        ([b'{"x":%b}' % good, good], [{"x": orjson.loads(good)}, unparsed]),
        ([b'{"x":[1,%b]}' % good, b"2"], [{"x": [1, orjson.loads(good)]}, 2]),
        ([], []),
    ]:
        assert read_batch(encode_batch("mitm-0", "e" * 32, 7, records), RECORD, BESIDE)["records"] == expected
    left = encode_batch("mitm-0", "e" * 32, 7, [good], LeftBehind(epoch="f" * 32, after=3))
    assert read_batch(left, RECORD, BESIDE) == read_object(left)


@given(st.lists(values_of(UsageRecorded).map(encode) | st.sampled_from([usage_json(), b"{}", b"1"]), max_size=4))
def test_a_batch_says_the_same_parsed_or_not(records: list[bytes]) -> None:
    """Whatever the records are."""
    assert_read_alike(encode_batch("mitm-0", "e" * 32, 1, records))


def test_a_batch_that_breaks_off_is_read_by_nobody() -> None:
    """At any place."""
    good = encode_batch("mitm-0", "e" * 32, 1, [usage_json("a"), usage_json("b")])
    for end in range(len(good)):
        assert_read_alike(good[:end])


@given(st.data())
def test_a_damaged_batch_is_read_or_refused_as_ever(data: st.DataObject) -> None:
    """Pieces are cut out, put elsewhere and repeated; what lies between records is not overlooked."""
    good = encode_batch("mitm-0", "e" * 32, 1, [usage_json("ä"), usage_json("b"), usage_json("c")])
    first, end = sorted(data.draw(st.tuples(st.integers(0, len(good)), st.integers(0, len(good)))))
    inserted = data.draw(
        st.sampled_from([b"", b",", b"]}", b"x", b" ", b"\xff", b"\xc3", good, usage_json(), good[first:end]])
    )
    for damaged in (good[:first] + inserted + good[first:], good[:first] + inserted + good[end:]):
        assert_read_alike(damaged)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "wiremeter.exchange-batch/2"},
        {"publisher": None},
        {"epoch": 7},
        {"records": {}},
        {"first_seq": 0},
        {"first_seq": True},
        {"first_seq": 1 << 61},
        {"first_seq": 1.0},
        {"left_behind": []},
        {"left_behind": {"epoch": EPOCH}},
    ],
)
def test_an_envelope_that_is_none_is_refused(change: dict[str, object]) -> None:
    """Wrong types, numbers outside the ledger's range, another version."""
    good = read_object(encode_batch("mitm-0", EPOCH, 1, [b"{}"]))
    with pytest.raises(EventInvalid):
        batch_from(good | change)


def test_hellos_and_marks_are_events() -> None:
    """They travel as every event does."""
    hello = PublisherGreeted(publisher="mitm-0", epochs=(HeldEpoch(epoch=EPOCH, first=3, last=9),))
    assert decode(PublisherGreeted, encode(hello)) == hello
    mark = CommitMarked(publisher="mitm-0", marks={EPOCH: 9})
    assert decode(CommitMarked, encode(mark)) == mark


def test_a_record_that_is_no_json_is_replaced_by_a_stand_in() -> None:
    """It would make every batch that it is in unreadable, for ever."""
    assert readable(b'{"a":1}') == b'{"a":1}'
    assert orjson.loads(readable(b'{"a":1')) == {"schema": "wiremeter.unreadable/1", "bytes": 6}
