"""The usage report: sums, and what they are worth."""

from services.ledger.entry import ExchangeSeries, Series
from services.ledger.periods import HOUR_US, Level
from services.ledger.report import ExchangeRow, SumRow, Window, usage_report

FLASH = Series("gcp.gen_ai", "gemini-3-flash", "antigravity", 998, "ok")
BROKEN = FLASH._replace(outcome="truncated", label=None)
OTHER = Series("openai", None, None, None, "no_usage")
EVERYTHING = Window(since_us=None, until_us=None)


def row(series: Series, measure: str, total: int, reported: int, hour: int | None = None) -> SumRow:
    return SumRow(Level.HOUR, hour, series, measure, total, reported)


ROWS = [
    row(FLASH, "#responses", 3, 3),
    row(FLASH, "input_tokens", 30, 3),
    row(FLASH, "output_tokens", 7, 2),
    row(BROKEN, "#responses", 1, 1),
    row(BROKEN, "#bounds", 1, 1),
    row(BROKEN, "input_tokens", 5, 1),
    row(OTHER, "#responses", 1, 1),
    row(OTHER, "#unknown", 1, 1),
]


def test_totals_say_how_many_are_bounds_or_unknown() -> None:
    """And how many responses reported each count."""
    report = usage_report(ROWS, [], (), EVERYTHING, 0)
    assert report["schema"] == "wiremeter.usage-report/1"
    assert report["window"] == {"since": None, "until": None}
    assert report["totals"] == {
        "requests": 5,
        "usage": {"input_tokens": 35, "output_tokens": 7},
        "reported": {"input_tokens": 4, "output_tokens": 2},
        "outcomes": {"no_usage": 1, "ok": 3, "truncated": 1},
        "bounds": 1,
        "unknown": 1,
    }


def test_models_and_clients_are_always_there_largest_first() -> None:
    """A client without a label is named by its user."""
    report = usage_report(ROWS, [], (), EVERYTHING, 0)
    models = [(each["model"], each["provider"], each["requests"]) for each in report["by_model"]]  # type: ignore[attr-defined]
    assert models == [("gemini-3-flash", "gcp.gen_ai", 4), (None, "openai", 1)]
    clients = [(each["client"], each["label"], each["uid"]) for each in report["by_client"]]  # type: ignore[attr-defined]
    assert clients[0] == ("antigravity", "antigravity", 998)
    assert set(clients[1:]) == {("uid:998", None, 998), ("unknown", None, None)}
    assert "by_hour" not in report


def test_hours_and_days_are_in_order() -> None:
    """Whatever the order of the sums."""
    rows = [row(FLASH, "#responses", 1, 1, hour) for hour in (30, 2, 25)]
    report = usage_report(rows, [], ("hour", "day", "provider", "outcome"), Window(since_us=0, until_us=HOUR_US), 0)
    assert report["window"] == {"since": "1970-01-01T00:00:00.000000Z", "until": "1970-01-01T01:00:00.000000Z"}
    assert [each["hour"][8:13] for each in report["by_hour"]] == ["01T02", "02T01", "02T06"]  # type: ignore[attr-defined]
    days = [(each["day"], each["requests"]) for each in report["by_day"]]  # type: ignore[attr-defined]
    assert days == [("1970-01-01T00:00:00Z", 1), ("1970-01-02T00:00:00Z", 2)]
    assert [each["provider"] for each in report["by_provider"]] == ["gcp.gen_ai"]  # type: ignore[attr-defined]
    assert [each["outcome"] for each in report["by_outcome"]] == ["ok"]  # type: ignore[attr-defined]


def test_endpoints_without_usage_are_listed() -> None:
    """With their class of status and their bytes."""
    exchanges = [
        ExchangeRow(ExchangeSeries("h", "e", 2), 1, 2, 3),
        ExchangeRow(ExchangeSeries("h", "f", None), 5, 0, 0),
    ]
    assert usage_report([], exchanges, (), EVERYTHING, 0)["endpoints"] == [
        {"host": "h", "endpoint": "f", "status_class": None, "exchanges": 5, "bytes": {"up": 0, "down": 0}},
        {"host": "h", "endpoint": "e", "status_class": "2xx", "exchanges": 1, "bytes": {"up": 2, "down": 3}},
    ]
