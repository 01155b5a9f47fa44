"""OpenAI's usage API: pages of buckets."""

import pytest

from services.ledger.completions import completions_page, page_from
from services.ledger.entry import Series
from services.ledger.periods import DAY_US, Level
from services.ledger.report import SumRow
from services.ledger.window import LedgerQueryInvalid

DAY_S = 86_400
MODEL = Series("openai", "gpt-5", None, None, "ok")


def test_a_page_has_a_bucket_for_every_day_empty_or_not() -> None:
    """Its results are null where there is nothing to say, as in the original."""
    page = page_from(DAY_S + 5, 3 * DAY_S, "1d", None, None)
    rows = [SumRow(Level.DAY, 1, MODEL, name, n, 2) for name, n in [("#responses", 2), ("input_tokens", 9)]]
    answer = completions_page(rows, page, ["model"])
    assert answer == {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": DAY_S,
                "end_time": 2 * DAY_S,
                "results": [
                    {
                        "object": "organization.usage.completions.result",
                        "input_tokens": 9,
                        "output_tokens": 0,
                        "input_cached_tokens": 0,
                        "input_audio_tokens": 0,
                        "output_audio_tokens": 0,
                        "num_model_requests": 2,
                        "project_id": None,
                        "user_id": None,
                        "api_key_id": None,
                        "model": "gpt-5",
                        "batch": None,
                    }
                ],
            },
            {"object": "bucket", "start_time": 2 * DAY_S, "end_time": 3 * DAY_S, "results": []},
        ],
        "has_more": False,
        "next_page": None,
    }


def test_pages_follow_each_other_without_gap() -> None:
    """Until the end of the window."""
    seen: list[int] = []
    page: str | None = None
    while True:
        chosen = page_from(0, 20 * DAY_S, "1d", 7, page)
        seen += range(chosen.first_us // DAY_US, chosen.end_us // DAY_US)
        page = chosen.next_page
        if page is None:
            break
    assert seen == list(range(20))


def test_models_are_one_result_unless_grouped() -> None:
    """Sums over everything, with model null."""
    page = page_from(0, DAY_S, "1d", None, None)
    rows = [SumRow(Level.DAY, 0, MODEL._replace(model=name), "#responses", 1, 1) for name in ("a", "b")]
    (result,) = completions_page(rows, page, [])["data"][0]["results"]  # type: ignore[index]
    assert (result["model"], result["num_model_requests"]) == (None, 2)


@pytest.mark.parametrize(
    ("start", "end", "width", "limit", "page"),
    [
        (0, 1, "1w", None, None),
        (0, 1, "1d", 0, None),
        (0, 1, "1d", 32, None),
        (0, 1, "1h", 169, None),
        (-1, 1, "1d", None, None),
        (5, 1, "1d", None, None),
        (0, 10**12, "1d", None, None),
        (0, 1, "1d", None, "next"),
        (0, 1, "1d", None, "²"),
    ],
)
def test_what_is_not_allowed_is_named(start: int, end: int, width: str, limit: int | None, page: str | None) -> None:
    """A width, a limit, a time, a page."""
    with pytest.raises(LedgerQueryInvalid):
        page_from(start, end, width, limit, page)


def test_a_group_that_the_original_does_not_have_is_refused() -> None:
    """Those that it has and we cannot fill are null."""
    page = page_from(0, 1, "1m", None, None)
    completions_page([], page, ["project_id"])
    with pytest.raises(LedgerQueryInvalid, match="group_by is 'provider'"):
        completions_page([], page, ["provider"])
