"""Records as mitm makes them, for tests of what happens to them afterwards."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, cast

from services.events.codec import checked, encode, read_object
from services.events.exchange import ByteCount, Client, ExchangeCounted, Timing, UsageMembers, UsageRecorded
from services.events.usage import Outcome

AT = "2026-11-23T17:40:11.123456Z"


def usage_record(event_id: str = "01JDUSAGE", **members: object) -> UsageRecorded:
    """Return a record of an ordinary answer, with some members replaced."""
    record = UsageRecorded(
        event_id=event_id,
        at=AT,
        exchange_id=f"exchange-{event_id}",
        provider="gcp.gen_ai",
        dialect="google-cloudcode",
        operation="generate_content",
        host="daily-cloudcode-pa.googleapis.com",
        model="gemini-3-flash",
        response_id=f"response-{event_id}",
        outcome=Outcome.OK,
        finish_reasons=("STOP",),
        http_status=200,
        usage={"input_tokens": 1514, "output_tokens": 77},
        timing=Timing(started_at=AT, first_byte_ms=412.7, duration_ms=1830.2),
        bytes=ByteCount(up=48211, down=3920),
        client=Client(uid=998, pid=4711, executable="language_server", label="antigravity"),
    )
    return dataclasses.replace(record, **members)  # type: ignore[arg-type]


def exchange_record(event_id: str = "01JDCOUNT", **members: object) -> ExchangeCounted:
    """Return an exchange that is only counted, with some members replaced."""
    record = ExchangeCounted(
        event_id=event_id,
        at=AT,
        host="cloudcode-pa.googleapis.com",
        endpoint="fetchUserInfo",
        http_status=200,
        timing=Timing(started_at=AT, duration_ms=12.5),
        bytes=ByteCount(up=200, down=1000),
        client=Client(uid=998),
    )
    return dataclasses.replace(record, **members)  # type: ignore[arg-type]


def usage_json(event_id: str = "01JDUSAGE", **members: object) -> bytes:
    """Return such a record as the bus carries it."""
    return encode(usage_record(event_id, **members))


def members_of(record: UsageRecorded) -> UsageMembers:
    """Return a record as the accountant checks it."""
    return cast(UsageMembers, checked(UsageRecorded, read_object(encode(record))))


def usage_members(event_id: str = "01JDUSAGE", **members: Any) -> UsageMembers:
    """Return such a record as the accountant checks it."""
    return members_of(usage_record(event_id, **members))


def measures(outcome: str, usage: Mapping[str, int | float]) -> Iterator[tuple[str, int | float]]:
    """Yield what one record adds to the sums: the rule, for one record at a time."""
    yield "#responses", 1
    if not usage:
        yield "#unknown", 1
    elif outcome == "truncated":
        yield "#bounds", 1
    yield from usage.items()
