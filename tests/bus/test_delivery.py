"""Batches, hellos and marks: what one side writes, the other reads."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bus.delivery import (
    CommitMarked,
    ExchangeBatch,
    HeldEpoch,
    LeftBehind,
    PublisherGreeted,
    batch_from,
    encode_batch,
    readable,
)
from services.events.codec import EventInvalid, decode, encode, read_object

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
