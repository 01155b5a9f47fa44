"""What records have in common is put together once."""

from typing import Any

import orjson

from services.events.codec import decode, encode
from services.events.exchange import Client, Timing, UsageRecorded
from services.events.usage import Outcome
from services.mitm.known_peer import written
from services.mitm.records import draft_record, empty_record, unread_record

CLIENT = Client(uid=1000, cwd='/home/"x"')
TIMING = {"started_at": "now", "first_byte_ms": None, "duration_ms": None}
OWN: dict[str, Any] = {
    "event_id": "e",
    "at": "now",
    "exchange_id": "e",
    "timing": TIMING,
    "bytes": {"up": 0, "down": 0},
}


def test_a_record_has_all_members_in_their_order() -> None:
    """As the event's own type has them: the accountant knows our records by their bytes."""
    members = empty_record("openai", "openai-chat", "api.openai.com", written(CLIENT)) | OWN | {"outcome": "ok"}
    expected = UsageRecorded(
        event_id="e",
        at="now",
        exchange_id="e",
        provider="openai",
        dialect="openai-chat",
        operation=None,
        host="api.openai.com",
        outcome=Outcome.OK,
        timing=Timing(started_at="now"),
        client=CLIENT,
    )
    assert orjson.dumps(members) == encode(expected)


def test_a_record_of_what_nobody_reads_says_so() -> None:
    """And is a whole record."""
    written_record = orjson.dumps(unread_record("unknown", "h", written(CLIENT), 'why "not"') | OWN)
    record = decode(UsageRecorded, written_record)
    assert encode(record) == written_record
    assert (record.outcome, record.reason, record.dialect) == (Outcome.UNREADABLE, 'why "not"', None)


def test_a_draft_says_that_the_process_died() -> None:
    """For who reads it is there when nobody is left to write another one."""
    draft = orjson.dumps(draft_record("p", "d", "h", written(CLIENT), "alias", "model") | OWN)
    record = decode(UsageRecorded, draft)
    assert encode(record) == draft
    assert (record.outcome, record.aborted_by, record.usage) == (Outcome.TRUNCATED, "proxy", {})
    assert (record.request_model, record.model) == ("alias", "model")


def test_exchanges_that_are_alike_share_it() -> None:
    """It is put together once."""
    client = written(CLIENT)
    assert unread_record("p", "h", client, "why") is unread_record("p", "h", client, "why")
    assert unread_record("p", "h", client, "why") is not unread_record("p", "h", written(Client()), "why")
    assert empty_record("p", None, "h", client) is empty_record("p", None, "h", client)
