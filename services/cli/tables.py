"""
Usage reports to tables for people.

A count that no record has is shown as `-`, never as 0: nothing was said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Column -> the count that it shows, in the order of a bill.
COUNTS: Mapping[str, str] = {
    "input": "input_tokens",
    "cached": "cache_read_input_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_output_tokens",
}
_UNKNOWN = "-"
_GAP = "  "


def usage_table(report: Mapping[str, Any]) -> str:
    """Lay out a `wiremeter.usage-report/1`: a row per model, the totals last, and what the totals leave open."""
    rows = [
        [str(row.get("model") or "unknown"), str(row.get("provider") or _UNKNOWN), *_numbers(row)]
        for row in report["by_model"]
    ]
    table = columns(["model", "provider", "requests", *COUNTS], [*rows, ["all", "", *_numbers(report["totals"])]])
    open_questions = _open_questions(report["totals"])
    return f"{table}\n{open_questions}" if open_questions else table


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first two to the left, the others, which are numbers, to the right."""
    table = [head, *rows]
    widths = [max(len(row[n]) for row in table) for n in range(len(head))]
    return "\n".join(
        _GAP.join(
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def shown(count: object) -> str:
    """Write a count with thousands apart; `-` for one that nobody reported."""
    if count is None:
        return _UNKNOWN
    return f"{count:,}" if isinstance(count, int | float) else str(count)


def _numbers(row: Mapping[str, Any]) -> list[str]:
    usage = row.get("usage") or {}
    return [shown(row.get("requests")), *(shown(usage.get(name)) for name in COUNTS.values())]


def _open_questions(totals: Mapping[str, Any]) -> str:
    parts = []
    if totals.get("bounds"):
        parts.append(f"{totals['bounds']} broken off, counted up to there")
    if totals.get("unknown"):
        parts.append(f"{totals['unknown']} without a count, not in the sums")
    return "; ".join(parts)
