"""The ledger: one transaction for rows, sums and cursors; readers that survive everything."""

import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.events.exchange import Client, Timing
from services.events.usage import Outcome
from services.ledger.entry import Arrival, GapEntry, RefusedEntry, Source, Superseding, exchange_entry, usage_entry
from services.ledger.store import LedgerReader, LedgerStore, LedgerUnusable
from services.ledger.window import LedgerQueryInvalid
from tests.support.records import exchange_record, members_of, usage_members, usage_record

ONE, TWO = Source("mitm-0", "1" * 32), Source("mitm-1", "2" * 32)
NOW = 1_795_455_700.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


def arrivals(source: Source, first: int, end: int) -> list[Arrival]:
    return [
        Arrival(source=source, seq=seq, entry=usage_entry(usage_members(f"{source.publisher}:{seq}")))
        for seq in range(first, end)
    ]


def ids(reader: LedgerReader, after: int = 0) -> list[object]:
    return [event["event_id"] for event in reader.events(after)["events"]]  # type: ignore[attr-defined]


def ids_in(path: Path, after: int = 0) -> list[object]:
    with closing(LedgerReader(path)) as reader:
        return ids(reader, after)


def requests_in(path: Path) -> object:
    with closing(LedgerReader(path)) as reader:
        return reader.report()["totals"]["requests"]  # type: ignore[index]


def query(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def test_records_get_numbers_without_gaps_and_are_published_with_them(path: Path) -> None:
    """Over batches, publishers and lives of the ledger."""
    store = LedgerStore(path)
    first = store.commit(arrivals(ONE, 1, 3) + arrivals(TWO, 1, 2))
    assert [seq for seq, _, _ in first.published] == [1, 2, 3]
    assert first.cursors == {ONE: 2, TWO: 1}
    _, series, message = first.published[2]
    assert orjson.loads(message)["event_id"] == "mitm-1:1"
    assert (series.provider, series.model) == ("gcp.gen_ai", "gemini-3-flash")
    store.close()
    store = LedgerStore(path)
    assert store.cursors == {ONE: 2, TWO: 1}
    assert [seq for seq, _, _ in store.commit(arrivals(ONE, 3, 5)).published] == [4, 5]
    store.close()


def test_only_the_next_record_of_a_source_is_taken(path: Path) -> None:
    """What was there before, and what comes too early, is ignored without a trace."""
    store = LedgerStore(path)
    store.commit(arrivals(ONE, 1, 4))
    commit = store.commit(arrivals(ONE, 2, 5) + arrivals(ONE, 7, 9) + arrivals(TWO, 2, 3))
    assert [seq for seq, _, _ in commit.published] == [4]
    assert commit.cursors == {ONE: 4}
    assert commit.taken == 1
    store.close()
    assert ids_in(path) == [f"mitm-0:{seq}" for seq in range(1, 5)]


def test_a_record_that_was_refused_holds_its_place(path: Path) -> None:
    """Its reason and size are kept, its content is not; the stream goes on."""
    store = LedgerStore(path, clock=lambda: NOW)
    refused = Arrival(source=ONE, seq=1, entry=RefusedEntry(reason="no time", size_bytes=7))
    store.commit([refused, *arrivals(ONE, 2, 3)])
    store.close()
    assert query(path, "SELECT source_seq, at_unix_us, records, reason, size_bytes FROM refused") == [
        (1, int(NOW * 1e6), 1, "no time", 7)
    ]
    assert ids_in(path) == ["mitm-0:2"]


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_arrivals_become_the_same_together_as_one_by_one(data: st.DataObject) -> None:
    """Runs of nothing but usage records are taken whole; whatever is between them, nothing comes of it but speed."""
    sources, numbers = st.sampled_from([ONE, TWO]), st.integers(1, 4)
    entries = {
        "usage": lambda source, seq: arrivals(source, seq, seq + 1)[0],
        "exchange": lambda source, seq: Arrival(source, seq, exchange_entry(exchange_record())),
        "refused": lambda source, seq: Arrival(source, seq, RefusedEntry(reason="no time", size_bytes=seq)),
        "gap": lambda source, seq: Arrival(source, seq, GapEntry(reason="gone")),
        "unless": lambda source, seq: arrivals(source, seq, seq + 1)[0]._replace(
            unless=Superseding(source=source, after=0, exchange_id=f"exchange-{source.publisher}:9")
        ),
    }
    drawn: list[Arrival] = []
    for source, first, kinds in data.draw(
        st.lists(st.tuples(sources, numbers, st.lists(st.sampled_from(["usage", "usage", *entries]), max_size=4)))
    ):
        drawn += [entries[kind](source, seq) for seq, kind in enumerate(kinds, first)]
    with tempfile.TemporaryDirectory() as folder:
        together = LedgerStore(Path(folder, "together"), clock=lambda: NOW)
        one_by_one = LedgerStore(Path(folder, "one-by-one"), clock=lambda: NOW)
        whole = together.commit(drawn)
        single = [one_by_one.commit([each]) for each in drawn]
        dumps = [list(store._connection.iterdump()) for store in (together, one_by_one)]
        together.close()
        one_by_one.close()
    assert whole.published == tuple(published for commit in single for published in commit.published)
    assert whole.taken == sum(commit.taken for commit in single)
    assert together.cursors == one_by_one.cursors
    assert dumps[0] == dumps[1]


def test_what_a_publisher_no_longer_has_is_passed_over(path: Path) -> None:
    """Noted with the number of records; never twice."""
    store = LedgerStore(path)
    gap = Arrival(source=ONE, seq=10, entry=GapEntry(reason="gone"))
    assert store.commit([gap, *arrivals(ONE, 11, 12)]).cursors == {ONE: 11}
    assert store.commit([gap]).cursors == {}
    store.close()
    assert query(path, "SELECT source_seq, records FROM refused") == [(10, 10)]


def test_an_unfinished_exchange_is_dropped_when_its_finished_record_is_there(path: Path) -> None:
    """The journal lost that record in a power cut, after it was committed."""
    store = LedgerStore(path)
    store.commit(arrivals(ONE, 1, 6))
    left = Source("mitm-0", "9" * 32)

    def derived(seq: int, of: int) -> Arrival:
        exchange_id = f"exchange-mitm-0:{of}"
        entry = usage_entry(usage_members(f"left:{seq}", exchange_id=exchange_id, outcome=Outcome.TRUNCATED))
        unless = Superseding(source=ONE, after=3, exchange_id=exchange_id)
        return Arrival(source=left, seq=seq, entry=entry, unless=unless)

    commit = store.commit([derived(1, 5), derived(2, 99), derived(3, 2)])
    assert commit.cursors == {left: 3}
    store.close()
    assert ids_in(path, 5) == ["left:2", "left:3"]


def test_a_commit_is_whole_or_nothing(path: Path) -> None:
    """A disk that is full in the middle: rows, sums and cursors are as before; a new store goes on."""
    store = LedgerStore(path)
    store.commit(arrivals(ONE, 1, 10))
    (pages,) = query(path, "PRAGMA page_count")[0]
    store._connection.execute(f"PRAGMA max_page_count={pages + 3}")  # type: ignore[operator]
    with pytest.raises(LedgerUnusable, match="full"):
        store.commit(arrivals(ONE, 10, 500))
    store = LedgerStore(path)
    assert store.cursors == {ONE: 9}
    assert store.last_seq == 9
    store.commit(arrivals(ONE, 10, 12))
    store.close()
    assert requests_in(path) == 11


def test_a_locked_ledger_is_unusable_for_the_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone else writes to it: nothing is committed, later it is."""
    monkeypatch.setattr("services.ledger.store._BUSY_TIMEOUT_S", 0.05)
    store = LedgerStore(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnusable, match="locked"):
            store.commit(arrivals(ONE, 1, 2))
    store = LedgerStore(path)
    assert store.commit(arrivals(ONE, 1, 2)).taken == 1
    store.close()


@pytest.mark.parametrize("content", [b"this is no database at all" * 50, b"SQLite format 3\0" + b"\xff" * 2000])
def test_a_file_that_is_no_ledger_is_named(path: Path, content: bytes) -> None:
    """For the writer and for readers; nobody overwrites it."""
    path.write_bytes(content)
    with pytest.raises(LedgerUnusable, match="ledger.sqlite3 cannot be used: file is not a database"):
        LedgerStore(path)
    with pytest.raises(LedgerUnusable, match="ledger.sqlite3 cannot be read: file is not a database"):
        LedgerReader(path).report()
    assert path.read_bytes() == content


def test_a_directory_that_is_missing_is_an_error_of_the_writer(tmp_path: Path) -> None:
    """It makes files, not directories."""
    with pytest.raises(LedgerUnusable, match="unable to open"):
        LedgerStore(tmp_path / "missing" / "ledger.sqlite3")


def test_commits_are_durable(path: Path) -> None:
    """WAL with a sync at every commit, and nobody else may read the file."""
    mask = os.umask(0o077)
    try:
        store = LedgerStore(path)
    finally:
        os.umask(mask)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.close()


def test_a_reader_without_a_ledger_has_nothing_to_say(path: Path) -> None:
    """Empty answers of the usual shape; the ledger may come later."""
    reader = LedgerReader(path, clock=lambda: NOW)
    report = reader.report()
    assert report["totals"] == {
        "requests": 0,
        "usage": {},
        "reported": {},
        "outcomes": {},
        "bounds": 0,
        "unknown": 0,
    }
    assert (report["by_model"], report["by_client"], report["endpoints"]) == ([], [], [])
    assert reader.events(5) == {"schema": "wiremeter.usage-events/1", "events": [], "next_after": 5}
    assert reader.completions(0, 1)["data"] != []
    assert not path.exists()
    path.touch()
    assert reader.events()["events"] == []
    store = LedgerStore(path)
    store.commit(arrivals(ONE, 1, 3))
    assert ids(reader) == ["mitm-0:1", "mitm-0:2"]
    store.close()
    reader.close()


def test_events_come_in_pages(path: Path) -> None:
    """Each answer says where the next begins; the numbers have no gaps."""
    store = LedgerStore(path)
    store.commit(arrivals(ONE, 1, 26))
    store.close()
    reader = LedgerReader(path)
    seen: list[object] = []
    after = 0
    while page := reader.events(after, 10)["events"]:
        seen += [event["seq"] for event in page]  # type: ignore[attr-defined]
        after = reader.events(after, 10)["next_after"]  # type: ignore[assignment]
    assert seen == list(range(1, 26))
    event = reader.events(0, 1)["events"][0]  # type: ignore[index]
    assert list(event)[:3] == ["schema", "seq", "event_id"]
    reader.close()


@pytest.mark.parametrize(("after", "limit"), [(-1, 10), (0, 0), (0, 1001), (1 << 63, 1)])
def test_pages_that_there_cannot_be_are_refused(path: Path, after: int, limit: int) -> None:
    """Before anything is asked of the database."""
    with pytest.raises(LedgerQueryInvalid):
        LedgerReader(path).events(after, limit)


def test_a_reader_sees_a_ledger_that_was_replaced(path: Path, tmp_path: Path) -> None:
    """A restored copy, without a restart of whoever reads."""
    store = LedgerStore(path)
    store.commit(arrivals(ONE, 1, 4))
    store.close()
    shutil.copy(path, tmp_path / "older.sqlite3")
    store = LedgerStore(path)
    store.commit(arrivals(ONE, 4, 9))
    store.close()
    reader = LedgerReader(path)
    assert len(ids(reader)) == 8
    (tmp_path / "older.sqlite3").replace(path)
    assert len(ids(reader)) == 3
    path.unlink()
    assert ids(reader) == []
    reader.close()


def test_threads_share_a_reader_while_the_writer_works(path: Path) -> None:
    """Neither waits for the other, and every answer is of one moment: sums and parts agree."""
    store, reader = LedgerStore(path), LedgerReader(path)
    wrong: list[object] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            report = reader.report("30d")
            total = report["totals"]["requests"]  # type: ignore[index]
            if total != sum(each["requests"] for each in report["by_model"]):  # type: ignore[attr-defined]
                wrong.append(report)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for batch in range(40):
        store.commit(arrivals(ONE, batch * 10 + 1, batch * 10 + 11))
    is_over.set()
    for thread in threads:
        thread.join()
    store.close()
    reader.close()
    assert wrong == []
    assert requests_in(path) == 400


def test_a_window_of_minutes_is_read_from_rows(path: Path) -> None:
    """As OpenAI's buckets of a minute."""
    store = LedgerStore(path)
    records = [usage_record(str(second), at=f"2026-11-23T17:00:{second:02}Z") for second in (5, 59)]
    records.append(usage_record("next", at="2026-11-23T17:01:00Z"))
    store.commit([Arrival(source=ONE, seq=n, entry=usage_entry(members_of(each))) for n, each in enumerate(records, 1)])
    store.commit([Arrival(source=ONE, seq=4, entry=exchange_entry(exchange_record()))])
    store.close()
    start = 1_795_453_200  # 17:00:00
    reader = LedgerReader(path, clock=lambda: NOW)
    page = reader.completions(start, start + 120, "1m")
    assert [bucket["results"][0]["num_model_requests"] for bucket in page["data"]] == [2, 1]  # type: ignore[attr-defined]
    page = reader.completions(start, None, "1h")
    assert [bucket["results"][0]["input_tokens"] for bucket in page["data"]] == [3 * 1514]  # type: ignore[attr-defined]
    reader.close()


def test_the_report_of_a_run_has_its_records_alone(path: Path) -> None:
    """By the run's id; a redirected user's that nobody could name as well, where they are asked for."""
    since = "2026-11-23T12:00:00.000000Z"
    clients = {
        "ours": Client(uid=1, pid=7, label="a", run="01KRUN"),
        "ours, after the fork": Client(uid=1, run="01KRUN"),
        "another run": Client(uid=998, run="01KOTHER"),
        "same label": Client(uid=1, label="a"),
        "invisible": Client(uid=998, label="antigravity"),
        "visible, and not ours": Client(uid=998, pid=8, label="antigravity"),
    }
    records = [usage_record(name, at=since, client=client) for name, client in clients.items()]
    invisible = Client(uid=998)
    records += [
        usage_record("said to be of a turn", at=since, client=invisible, turn_id="t"),
        usage_record(
            "begun before", at=since, client=invisible, timing=Timing(started_at="2026-11-23T11:59:59.999999Z")
        ),
        usage_record("over before", at="2026-11-23T11:59:59.999999Z", client=clients["ours"]),
    ]
    with closing(LedgerStore(path)) as store:
        store.commit(
            [Arrival(source=ONE, seq=n, entry=usage_entry(members_of(each))) for n, each in enumerate(records, 1)]
        )
    reader = LedgerReader(path)
    begin = datetime(2026, 11, 23, 12, tzinfo=UTC)
    report: Any = reader.run_report("01KRUN", begin)
    assert (report["totals"]["requests"], report["totals"]["usage"]["input_tokens"]) == (2, 2 * 1514)
    report = reader.run_report("01KRUN", begin, uid=998)
    assert report["totals"]["requests"] == 4
    assert {row["label"] for row in report["by_client"]} == {"a", None, "antigravity"}
    report = reader.run_report("01KNONE", begin)
    assert (report["totals"]["requests"], report["totals"]["usage"], report["by_model"]) == (0, {}, [])
    reader.close()
