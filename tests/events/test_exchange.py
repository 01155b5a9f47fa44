"""Records on the bus."""

import dataclasses

from services.events.codec import decode, encode, read_object
from services.events.exchange import Client, ExchangeCounted, UsageRecorded
from tests.support.records import exchange_record, usage_record


def test_a_record_shows_every_member_known_or_not() -> None:
    """null where nothing is known: readers need not guess at names."""
    members = read_object(encode(usage_record()))
    assert members["turn_id"] is None
    assert list(members)[:4] == ["schema", "event_id", "at", "exchange_id"]
    assert list(members) == ["schema", *(field.name for field in dataclasses.fields(UsageRecorded))]


def test_only_reported_counts_are_there() -> None:
    """Unlike the other members."""
    assert read_object(encode(usage_record(usage={"input_tokens": 0})))["usage"] == {"input_tokens": 0}


def test_a_counted_exchange_is_another_event() -> None:
    """It has no usage at all."""
    assert decode(ExchangeCounted, encode(exchange_record())) == exchange_record()
    assert "usage" not in read_object(encode(exchange_record()))


def test_nothing_is_known_of_a_client_by_default() -> None:
    """Who connected is looked up, not assumed."""
    assert Client() == Client(uid=None, pid=None, executable=None, cwd=None, label=None)
