"""Usage records to lines for people: time, model, outcome, tokens, duration, client."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.cli.tables import shown

# Heading and width; numbers to the right.
_COLUMNS = (
    ("time", 8),
    ("model", 28),
    ("outcome", 11),
    ("in", 9),
    ("cached", 9),
    ("out", 8),
    ("reasoning", 9),
    ("ms", 8),
    ("client", 0),
)
_WORDS = 3  # the first columns


def heading() -> str:
    """Return the line above the records."""
    return _line([name for name, _ in _COLUMNS])


def line(record: Mapping[str, Any]) -> str:
    """Write one `wiremeter.usage/1` record; what nobody reported is `-`."""
    usage = record.get("usage") or {}
    duration = (record.get("timing") or {}).get("duration_ms")
    client = record.get("client") or {}
    return _line(
        [
            _local_time(record["at"]),
            str(record.get("model") or "unknown"),
            _outcome(record),
            shown(usage.get("input_tokens")),
            shown(usage.get("cache_read_input_tokens")),
            shown(usage.get("output_tokens")),
            shown(usage.get("reasoning_output_tokens")),
            shown(None if duration is None else round(duration)),
            str(client.get("label") or client.get("executable") or "-"),
        ]
    )


def _outcome(record: Mapping[str, Any]) -> str:
    """A broken-off answer's counts are a lower bound, which `≥` says."""
    outcome = str(record["outcome"])
    if outcome == "error" and record.get("http_status"):
        return f"error {record['http_status']}"
    return f"≥ {outcome}" if outcome == "truncated" else outcome


def _local_time(at: str) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")


def _line(cells: list[str]) -> str:
    return "  ".join(
        cell.ljust(width) if n < _WORDS or not width else cell.rjust(width)
        for n, (cell, (_, width)) in enumerate(zip(cells, _COLUMNS, strict=True))
    ).rstrip()
