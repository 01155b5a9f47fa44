"""`wiremeter usage`."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli.usage import usage
from services.events.exchange import Timing, UsageRecorded
from services.events.usage import Outcome
from services.ledger.entry import Arrival, Source, usage_entry
from services.ledger.store import LedgerStore
from tests.support.records import members_of

SOURCE = Source("mitm-0", "0" * 32)


def record(at: str, model: str, **counts: int) -> UsageRecorded:
    return UsageRecorded(
        event_id=at,
        at=at,
        exchange_id="x",
        provider="gcp.gen_ai",
        dialect="google-gemini",
        operation="generate_content",
        host="generativelanguage.googleapis.com",
        model=model,
        outcome=Outcome.OK,
        usage=counts,
        timing=Timing(started_at=at),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Path]:
    records = [
        record("2026-11-01T00:00:00.000000Z", "early", input_tokens=1, output_tokens=2),
        record("2026-11-22T12:30:00.000000Z", "late", input_tokens=1000, output_tokens=20, reasoning_output_tokens=5),
    ]
    with closing(LedgerStore(tmp_path / "ledger.sqlite3")) as store:
        store.commit(
            [Arrival(source=SOURCE, seq=n, entry=usage_entry(members_of(each))) for n, each in enumerate(records, 1)]
        )
    yield tmp_path / "ledger.sqlite3"


def test_everything_by_model(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What no record reported is a dash."""
    assert usage(ledger, since=None, until=None, as_json=False) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["model", "provider", "requests", "input", "cached", "output", "reasoning"]
    assert sorted(rows[1:3]) == [
        ["early", "gcp.gen_ai", "1", "1", "-", "2", "-"],
        ["late", "gcp.gen_ai", "1", "1,000", "-", "20", "5"],
    ]
    assert rows[3] == ["all", "2", "1,001", "-", "22", "5"]


def test_a_window(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From then on, and before then."""
    since = datetime(2026, 11, 22, tzinfo=UTC)
    usage(ledger, since=since, until=None, as_json=False)
    assert "early" not in capsys.readouterr().out
    usage(ledger, since=None, until=since, as_json=False)
    assert "late" not in capsys.readouterr().out
    assert usage(ledger, since=since, until=datetime(2026, 11, 1, tzinfo=UTC), as_json=False) == 1
    assert "lies before" in capsys.readouterr().err


def test_the_whole_report(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the HTTP API gives it."""
    assert usage(ledger, since=None, until=None, as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "wiremeter.usage-report/1"
    assert report["totals"]["usage"]["input_tokens"] == 1001


def test_no_ledger_is_no_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and none is made."""
    assert usage(tmp_path / "none", since=None, until=None, as_json=False) == 1
    assert "no ledger yet" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_no_ledger_is_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    assert usage(tmp_path / "ledger.sqlite3", since=None, until=None, as_json=False) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
