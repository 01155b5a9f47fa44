"""Sums of roll-ups are sums of rows, for any window."""

import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.events.exchange import Client
from services.events.usage import Outcome
from services.ledger.entry import Arrival, Source, exchange_entry, usage_entry
from services.ledger.periods import HOUR_US, TEN_MINUTES_US
from services.ledger.store import LedgerReader, LedgerStore
from services.ledger.window import text_from
from tests.support.records import exchange_record, measures, usage_members

# Forty days around a change of month; many on the borders of ten minutes, hours and days.
FIRST_US = int(datetime(2026, 1, 15, tzinfo=UTC).timestamp()) * 1_000_000
MOMENTS = (
    st.integers(0, 40 * 24 * HOUR_US)
    | st.integers(0, 2 * HOUR_US)
    | st.integers(0, 40 * 24 * 6).map(lambda period: period * TEN_MINUTES_US)
    | st.integers(0, 40 * 24).map(lambda hour: hour * HOUR_US)
    | st.integers(0, 40).map(lambda day: day * 24 * HOUR_US)
).map(lambda offset: FIRST_US + offset)
RECORDS = st.lists(
    st.tuples(
        MOMENTS,
        st.sampled_from(["a", "b", None]),
        st.sampled_from([None, "label"]),
        st.sampled_from(Outcome),
        st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "consumed_credits"]), st.integers(0, 99)),
    ),
    max_size=25,
)


def make_older(path: Path) -> None:
    """Make a ledger one of the first version: without the sums by ten minutes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DELETE FROM rollup WHERE level = 0; DROP TABLE kept; PRAGMA user_version = 1")


@settings(max_examples=80, deadline=None)
@given(RECORDS, st.none() | st.integers(0, 4), MOMENTS, MOMENTS, st.sampled_from([(), ("hour",), ("day",)]))
def test_a_report_has_the_sums_of_the_rows_in_its_window(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[int, str | None, str | None, Outcome, dict[str, int]]],
    migrated_after: int | None,
    one: int,
    other: int,
    group_by: tuple[str, ...],
) -> None:
    """Cut at any microsecond; in total, by model, by hour or day; even if ten minutes were not kept at first."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite3"
    store = LedgerStore(path)
    arrivals = [
        Arrival(
            source=Source("mitm-0", "e"),
            seq=number,
            entry=usage_entry(
                usage_members(
                    str(number),
                    at=text_from(at),
                    model=model,
                    client=Client(label=label),
                    outcome=outcome,
                    usage=usage,
                )
            ),
        )
        for number, (at, model, label, outcome, usage) in enumerate(records, 1)
    ]
    for number, cut in enumerate(range(0, len(arrivals), 7)):
        if number == migrated_after:
            store.close()
            make_older(path)
            store = LedgerStore(path)
        store.commit(arrivals[cut : cut + 7])
    store.close()
    if migrated_after is not None and migrated_after * 7 >= len(arrivals):
        make_older(path)  # and nobody but readers has opened it since
    since, until = sorted((one, other))
    expected: defaultdict[str | None, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for at, model, _, outcome, usage in records:
        if since <= at < until:
            for measure, value in measures(outcome, usage):
                expected[model][measure] += int(value)
    with closing(LedgerReader(path)) as reader:
        report = reader.report(text_from(since), text_from(until), group_by)
    found = {
        each["model"]: {
            **each["usage"],
            "#responses": each["requests"],
            "#bounds": each["bounds"],
            "#unknown": each["unknown"],
        }
        for each in report["by_model"]  # type: ignore[attr-defined]
    }
    assert found == {model: {"#bounds": 0, "#unknown": 0, **sums} for model, sums in expected.items()}
    whole = sum(sums["#responses"] for sums in expected.values())
    for part in ("by_client", *(f"by_{name}" for name in group_by)):
        assert sum(each["requests"] for each in report[part]) == whole  # type: ignore[attr-defined]


def test_exchanges_are_reported_for_whole_hours(tmp_path: Path) -> None:
    """No rows of them are kept, so a window inside an hour shows the hour."""
    store = LedgerStore(tmp_path / "ledger.sqlite3")
    records = [exchange_record(at=f"2026-11-23T{hour}:30:00Z") for hour in (10, 11, 12, 13)]
    source = Source("mitm-0", "e")
    store.commit([Arrival(source=source, seq=n, entry=exchange_entry(each)) for n, each in enumerate(records, 1)])
    store.close()
    with closing(LedgerReader(tmp_path / "ledger.sqlite3")) as reader:
        report = reader.report("2026-11-23T11:50:00Z", "2026-11-23T12:10:00Z")
    assert [each["exchanges"] for each in report["endpoints"]] == [2]  # type: ignore[attr-defined]
    assert report["totals"]["requests"] == 0  # type: ignore[index]
