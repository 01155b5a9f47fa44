"""What one `wiremeter run` used."""

from dataclasses import replace
from datetime import UTC, datetime

from services.cli.summary import End, Run, as_object, as_text

COUNTS = {"input_tokens": 1514, "output_tokens": 77, "reasoning_output_tokens": 52}
ROW = {"requests": 2, "usage": COUNTS, "reported": {}, "outcomes": {"ok": 2}, "bounds": 0, "unknown": 0}
REPORT = {"totals": ROW, "by_model": [{"model": "gemini-3-flash", "provider": "gcp.gemini", **ROW}]}
NOTHING = {"totals": {"requests": 0, "usage": {}, "outcomes": {}, "bounds": 0, "unknown": 0}, "by_model": []}
RUN = Run(
    run="01K",
    label="mine",
    program="curl",
    user=None,
    started_at=datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC),
    ended_at=datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC),
    end=End(0),
    under_way=0,
)


def test_people_get_a_table() -> None:
    """By model; what nobody reported is a dash."""
    assert as_text(RUN, REPORT).splitlines() == [
        "wiremeter: curl used, as mine:",
        "model           provider    requests  input  cached  output  reasoning",
        "gemini-3-flash  gcp.gemini         2  1,514       -      77         52",
        "all                                2  1,514       -      77         52",
    ]


def test_bounds_and_unknowns_are_named() -> None:
    """Never counted as zero."""
    totals = ROW | {"bounds": 1, "unknown": 3}
    last = as_text(RUN, REPORT | {"totals": totals}).splitlines()[-1]
    assert last == "1 broken off, counted up to there; 3 without a count, not in the sums"


def test_nothing_is_not_zero() -> None:
    """A program that goes past the proxy must not look cheap."""
    text = as_text(RUN, NOTHING)
    assert "0" not in text
    assert "nothing of curl was metered: it called no model, or does not go through the proxy" in text


def test_what_is_not_over_is_said() -> None:
    """And so is what nobody knows."""
    assert "2 still under way" in as_text(replace(RUN, under_way=2), REPORT)
    assert "may not be all" in as_text(replace(RUN, under_way=None), REPORT)


def test_what_may_be_others_is_said() -> None:
    """By the redirect all of one user look alike."""
    assert "whatever else ran as antigravity-ls" in as_text(replace(RUN, user="antigravity-ls"), REPORT)


def test_scripts_get_one_object() -> None:
    """With what the usage report has, and how the program ended."""
    found = as_object(replace(RUN, end=End(130, 2), under_way=None), REPORT)
    assert found == {
        "schema": "wiremeter.run/1",
        "run": "01K",
        "label": "mine",
        "program": "curl",
        "user": None,
        "started_at": "2026-11-23T12:00:00.000005Z",
        "ended_at": "2026-11-23T12:00:01.000000Z",
        "exit_status": 130,
        "signal": 2,
        "is_complete": False,
        "under_way": None,
        **REPORT,
    }
