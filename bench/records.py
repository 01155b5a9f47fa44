"""Records as mitm writes them, for benches of what happens to them afterwards."""

import orjson

from services.events.codec import checked, encode
from services.events.exchange import ByteCount, Client, Timing, UsageMembers, UsageRecorded
from services.events.usage import Outcome
from services.ledger.entry import Arrival, Source, UsageEntry, usage_entry
from services.ledger.window import text_from

# 2026-01-01T00:00:00Z
FIRST_US = 1_767_225_600_000_000
YEAR_US = 365 * 86_400_000_000
SOURCE = Source("bench", "0" * 32)


def record(number: int, at_us: int = FIRST_US) -> UsageRecorded:
    """Return a record of the usual size, of one of some models and clients."""
    return UsageRecorded(
        event_id=f"01J{number:023d}",
        at=text_from(at_us),
        exchange_id=f"01K{number:023d}",
        provider="gcp.gen_ai",
        dialect="google-cloudcode",
        operation="generate_content",
        host="daily-cloudcode-pa.googleapis.com",
        request_model="gemini-3-flash",
        response_model="gemini-3-flash",
        model=f"model-{number % 4}",
        response_id=f"response-{number:020d}",
        outcome=Outcome.OK if number % 20 else Outcome.TRUNCATED,
        finish_reasons=("STOP",),
        http_status=200,
        usage={"input_tokens": 1514, "output_tokens": 77, "reasoning_output_tokens": 52, "total_tokens": 1591},
        timing=Timing(started_at=text_from(at_us), first_byte_ms=412.7, duration_ms=1830.2),
        bytes=ByteCount(up=48211, down=3920),
        client=Client(uid=998, pid=4711, executable="language_server", label=f"client-{number % 2}"),
    )


def members(number: int, at_us: int = FIRST_US) -> UsageMembers:
    """Return such a record as the accountant checks it."""
    found: dict[str, object] = checked(UsageRecorded, orjson.loads(encode(record(number, at_us))))
    return found  # type: ignore[return-value]  # what was checked has these members


def arrival(seq: int, at_us: int = FIRST_US) -> Arrival:
    """Return such a record on its way into the ledger."""
    return Arrival(source=SOURCE, seq=seq, entry=usage_entry(members(seq, at_us)))


def year_of_arrivals(first: int, end: int, step_us: int) -> list[Arrival]:
    """
    Return records `first` to `end - 1` (from 1) of a ledger that gets one every `step_us`, in full size.

    Made from a few of the usual way: ten million of them would take longer to make than to write.
    """
    arrivals = []
    for number in range(first, end):
        entry = _PATTERNS[number % len(_PATTERNS)]
        assert isinstance(entry, UsageEntry)
        at_us = FIRST_US + number * step_us
        body = b'{"event_id":"01J%023d","at":"%b"%b' % (number, text_from(at_us).encode(), entry.body[_FRONT_BYTES:])
        arrivals.append(Arrival(source=SOURCE, seq=number, entry=entry._replace(at_unix_us=at_us, body=body)))
    return arrivals


_PATTERNS = [arrival(number).entry for number in range(40)]
_FRONT_BYTES = len(f'{{"event_id":"01J{0:023d}","at":"{text_from(0)}"')
