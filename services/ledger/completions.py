"""
Sums in the shape of OpenAI's usage API, `GET /v1/organization/usage/completions`: pages of time buckets.

Source: the OpenAI API reference, "Usage", "Completions". Members for which there is nothing to say are null, as there.
The shape has no "unknown": a count that nobody reported is 0 in it, which is why Wiremeter has a report of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.ledger.periods import DAY_US, HOUR_US, Level, start_of
from services.ledger.report import SumRow
from services.ledger.rollups import RESPONSES
from services.ledger.window import LedgerQueryInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketWidth:
    """
    A width that can be asked for.

    Attributes:
        default, largest: Buckets on a page.
        level: Where the sums come from.
    """

    width_us: int
    default: int
    largest: int
    level: Level


BUCKET_WIDTHS: Mapping[str, BucketWidth] = {
    "1m": BucketWidth(width_us=60_000_000, default=60, largest=1440, level=Level.ROW),
    "1h": BucketWidth(width_us=HOUR_US, default=24, largest=168, level=Level.HOUR),
    "1d": BucketWidth(width_us=DAY_US, default=7, largest=31, level=Level.DAY),
}
GROUPS = ("model", "project_id", "user_id", "api_key_id", "batch")
# OpenAI's member -> our count.
_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "input_cached_tokens": "cache_read_input_tokens",
    "input_audio_tokens": "audio_input_tokens",
    "output_audio_tokens": "audio_output_tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPage:
    """One page: buckets from `first_us` to `end_us`, and where the next page starts."""

    width: BucketWidth
    first_us: int
    end_us: int
    next_page: str | None


def page_from(start_s: int, end_s: int, bucket_width: str, limit: int | None, page: str | None) -> BucketPage:
    """
    Choose the buckets of one page.

    Raises:
        LedgerQueryInvalid: A width, limit, page or time that there is not.
    """
    width = BUCKET_WIDTHS.get(bucket_width)
    if width is None:
        raise LedgerQueryInvalid(f"bucket_width is {bucket_width!r:.20}; allowed are {', '.join(BUCKET_WIDTHS)}")
    count = width.default if limit is None else limit
    if not 1 <= count <= width.largest:
        raise LedgerQueryInvalid(f"limit is {count}; 1 to {width.largest} is allowed for {bucket_width}")
    if not 0 <= start_s < 10**11 or not 0 <= end_s < 10**11 or end_s < start_s:
        raise LedgerQueryInvalid(f"start_time {start_s} and end_time {end_s} are no window of Unix seconds")
    if page is not None and not (page.isascii() and page.isdigit() and len(page) < 12):
        raise LedgerQueryInvalid(f"page is {page!r:.40}; the next_page of an earlier answer is allowed")
    first_us = (start_s if page is None else int(page)) * 1_000_000 // width.width_us * width.width_us
    last_us = -(-end_s * 1_000_000 // width.width_us) * width.width_us
    end_us = max(first_us, min(last_us, first_us + count * width.width_us))
    following = str(end_us // 1_000_000) if end_us < last_us else None
    return BucketPage(width=width, first_us=first_us, end_us=end_us, next_page=following)


def completions_page(rows: Sequence[SumRow], page: BucketPage, group_by: Sequence[str]) -> dict[str, object]:
    """
    Write one page.

    Raises:
        LedgerQueryInvalid: A group that there is not.
    """
    for name in group_by:
        if name not in GROUPS:
            raise LedgerQueryInvalid(f"group_by is {name!r:.40}; allowed are {', '.join(GROUPS)}")
    key: Callable[[SumRow], str | None] = lambda row: row.series.model if "model" in group_by else None  # noqa: E731
    buckets: dict[int, dict[str | None, dict[str, int | float]]] = {}
    for row in rows:
        assert row.period is not None
        start_us = start_of(row.level, row.period) // page.width.width_us * page.width.width_us
        sums = buckets.setdefault(start_us, {}).setdefault(key(row), {})
        sums[row.measure] = sums.get(row.measure, 0) + row.total
    return {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": start_us // 1_000_000,
                "end_time": (start_us + page.width.width_us) // 1_000_000,
                "results": [_result(model, sums) for model, sums in buckets.get(start_us, {}).items()],
            }
            for start_us in range(page.first_us, page.end_us, page.width.width_us)
        ],
        "has_more": page.next_page is not None,
        "next_page": page.next_page,
    }


def _result(model: str | None, sums: Mapping[str, int | float]) -> dict[str, object]:
    return {
        "object": "organization.usage.completions.result",
        **{name: sums.get(ours, 0) for name, ours in _COUNTS.items()},
        "num_model_requests": sums.get(RESPONSES, 0),
        "project_id": None,
        "user_id": None,
        "api_key_id": None,
        "model": model,
        "batch": None,
    }
