"""
SQLite: the ledger on disk, written by one process (`LedgerStore`) and read by any (`LedgerReader`).

WAL mode, so that readers never wait for the writer nor the writer for them; `synchronous=FULL`, so that what was
committed survives a power cut. Both block: a service calls them on a thread.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

from services.ledger.completions import completions_page, page_from
from services.ledger.entry import (
    Arrival,
    ExchangeEntry,
    GapEntry,
    RefusedEntry,
    Series,
    Source,
    Superseding,
    UsageEntry,
    messages_from,
)
from services.ledger.periods import Level, cover
from services.ledger.report import Window, usage_report
from services.ledger.rollups import add_up, add_up_exchanges
from services.ledger.schema import MIGRATIONS, VERSION
from services.ledger.snapshot import Snapshot
from services.ledger.window import LedgerQueryInvalid, groups_from, unix_us, window_from

EVENTS_SCHEMA = "wiremeter.usage-events/1"
EVENTS_MAX = 1000
# Only we write. Whoever else holds the lock (someone at the sqlite3 prompt) gets this long to finish.
_BUSY_TIMEOUT_S = 2.0
# With seven columns half of the 999 values that every SQLite takes in one statement.
_ROWS_A_STATEMENT = 64


# A record that is committed: its number, what its topic is made of, and the message. Without names: there are many.
Published: TypeAlias = tuple[int, Series, bytes]


class LedgerUnusable(Exception):
    """The ledger cannot be opened, read or written; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """
    What one transaction did.

    Attributes:
        published: The usage records, in the order of their numbers.
        cursors: For each source that was in it, the number up to which everything is committed.
        taken: Arrivals that are in the ledger now; the others were not next in line.
    """

    published: tuple[Published, ...]
    cursors: dict[Source, int]
    taken: int


class LedgerStore:
    """
    The writer. After `LedgerUnusable` it is closed: open another.

    Use it on one thread at a time.

    Attributes:
        cursors: For every source, the number up to which its records are committed.
        last_seq: The ledger's own number of the last record.

    Raises:
        LedgerUnusable: Not a ledger, made by a newer version, not writable.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        try:
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        except sqlite3.Error as error:
            raise LedgerUnusable(f"{path} cannot be opened: {error}") from error
        try:
            self._prepare()
            self._load()
        except sqlite3.Error as error:
            self.close()
            raise LedgerUnusable(f"{path} cannot be used: {error}") from error
        except LedgerUnusable:
            self.close()
            raise

    def commit(self, arrivals: Sequence[Arrival]) -> Commit:
        """
        Commit arrivals in one transaction: rows, sums and cursors, all or nothing.

        An arrival that is not the next of its source is ignored: it is here already, or comes again in its turn.

        Raises:
            LedgerUnusable: Nothing was committed, or (a failure at the very end) it is not known whether it was; the
                next store finds out. This one is closed.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            commit = self._write(arrivals)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.close()
            raise LedgerUnusable(str(error)) from error
        return commit

    def close(self) -> None:
        """Close the database; what is not committed is rolled back."""
        with suppress(sqlite3.Error):
            self._connection.close()

    # Opening.

    def _prepare(self) -> None:
        execute = self._connection.execute
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise LedgerUnusable(f"the ledger has version {version}, this program knows {VERSION}")
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        execute("PRAGMA foreign_keys=OFF")  # the writer makes the keys; checking each costs more than the insert
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            # A comment holds a semicolon sooner or later; complete_statement knows.
            execute("BEGIN IMMEDIATE")
            for statement in _statements(script):
                execute(statement)
            execute(f"PRAGMA user_version={number}")
            execute("COMMIT")

    def _load(self) -> None:
        execute = self._connection.execute
        self.cursors = {Source(p, e): n for p, e, n in execute("SELECT publisher, epoch, cursor FROM source")}
        self._sources = _RowIds(execute, "source", "publisher", "epoch", cursor=0)
        self._series = _RowIds(execute, "series", "provider", "model", "label", "uid", "outcome")
        self._exchange_series = _RowIds(execute, "exchange_series", "host", "endpoint", "status_class")
        self._measures = _RowIds(execute, "measure", "name")
        self.last_seq: int = execute("SELECT ifnull(max(seq), 0) FROM usage").fetchone()[0]

    # Writing.

    def _write(self, arrivals: Sequence[Arrival]) -> Commit:
        usage = _UsageRows()
        exchanges: list[ExchangeEntry] = []
        touched: dict[Source, int] = {}
        taken = 0
        for source, of_source in groupby(arrivals, attrgetter("source")):
            run = tuple(of_source)
            before = cursor = self.cursors.get(source, 0)
            plain = _plain(run, cursor)
            if plain is not None:
                usage.take(self._sources[source], *plain)
                touched[source] = self.cursors[source] = cursor + len(run)
                taken += len(run)
                continue
            for arrival in run:
                _, seq, entry, unless = arrival
                if seq != cursor + 1 and not (isinstance(entry, GapEntry) and seq > cursor):
                    continue
                passed, cursor = seq - cursor, seq
                is_superseded = unless is not None and self._has_finished(unless)
                taken += not is_superseded
                if isinstance(entry, RefusedEntry | GapEntry):
                    self._refuse(arrival, passed)
                elif isinstance(entry, ExchangeEntry):
                    if not is_superseded:
                        exchanges.append(entry)
                elif not is_superseded:
                    usage.take(self._sources[source], (seq,), (entry,))
            if cursor > before:
                touched[source] = self.cursors[source] = cursor
        published = self._add_usage(usage)
        self._add_exchanges(exchanges)
        self._connection.executemany(
            "UPDATE source SET cursor = ? WHERE id = ?",
            [(cursor, self._sources[source]) for source, cursor in touched.items()],
        )
        return Commit(published=published, cursors=touched, taken=taken)

    def _has_finished(self, superseding: Superseding) -> bool:
        source = self._sources.get(superseding.source)
        # Without a power cut there is no row to look at.
        found = self._connection.execute(
            "SELECT 1 FROM usage WHERE source = ? AND source_seq > ? AND json_extract(body, '$.exchange_id') = ?",
            (source, superseding.after, superseding.exchange_id),
        )
        return found.fetchone() is not None

    def _add_usage(self, rows: "_UsageRows") -> tuple[Published, ...]:
        if not rows.entries:
            return ()
        first = self.last_seq + 1
        self.last_seq += len(rows.entries)
        numbers = range(first, self.last_seq + 1)
        ats, series, usages, counts, bodies = zip(*rows.entries, strict=True)
        known, names = self._series, self._measures
        ids = map(known.__getitem__, series)
        columns = (numbers, rows.sources, rows.seqs, ats, ids, map(bytes.decode, counts), map(bytes.decode, bodies))
        self._insert("INSERT INTO usage VALUES", len(columns), list(chain.from_iterable(zip(*columns, strict=True))))
        sums: list[object] = []
        for (level, period, of), measures in add_up(zip(ats, series, usages, strict=True)).items():
            n = known[of]
            for measure, (total, reported) in measures.items():
                sums += (level, period, n, names[measure], total, reported)
        self._insert(
            "INSERT INTO rollup VALUES",
            6,
            sums,
            " ON CONFLICT DO UPDATE SET total = total + excluded.total, reported = reported + excluded.reported",
        )
        return tuple(zip(numbers, series, messages_from(first, bodies), strict=True))

    def _insert(self, insert: str, columns: int, values: Sequence[object], conflict: str = "") -> None:
        """
        Insert many rows, their values one after the other, with few statements.

        With a statement for each row (`executemany`) the interpreter lock goes to and fro between this thread and the
        event loop's at every row, and each time that one may keep it for milliseconds.
        """
        for first in range(0, len(values), _ROWS_A_STATEMENT * columns):
            some = values[first : first + _ROWS_A_STATEMENT * columns]
            self._connection.execute(_statement(insert, len(some) // columns, columns, conflict), some)

    def _add_exchanges(self, entries: Sequence[ExchangeEntry]) -> None:
        if not entries:
            return
        self._connection.executemany(
            "INSERT INTO exchange_rollup VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET exchanges = exchanges + excluded.exchanges, bytes_up = bytes_up + excluded.bytes_up,"
            " bytes_down = bytes_down + excluded.bytes_down",
            [
                (level, period, self._exchange_series[series], *value)
                for (level, period, series), value in add_up_exchanges(entries).items()
            ],
        )

    def _refuse(self, arrival: Arrival, records: int) -> None:
        entry = arrival.entry
        assert isinstance(entry, RefusedEntry | GapEntry)
        size_bytes = entry.size_bytes if isinstance(entry, RefusedEntry) else 0
        now_us = int(self._clock() * 1_000_000)
        source = self._sources[arrival.source]
        self._connection.execute(
            "INSERT INTO refused VALUES (?, ?, ?, ?, ?, ?)",
            (source, arrival.seq, now_us, records, entry.reason[:500], size_bytes),
        )


class _UsageRows:
    """
    Usage records that become rows of one transaction, column by column: a step of the interpreter for a column is
    cheaper than one for a record.

    Attributes:
        sources, seqs, entries: By record: the row of its source, its number there, what it says.
    """

    def __init__(self) -> None:
        self.sources: list[int] = []
        self.seqs: list[int] = []
        self.entries: list[UsageEntry] = []

    def take(self, source: int, seqs: Sequence[int], entries: Sequence[UsageEntry]) -> None:
        """Take records of one source."""
        self.sources += [source] * len(seqs)
        self.seqs += seqs
        self.entries += entries


def _plain(run: Sequence[Arrival], cursor: int) -> tuple[Sequence[int], Sequence[UsageEntry]] | None:
    """Return numbers and entries of a run of one source if it is what runs are: usage records, the next ones, only."""
    _, seqs, entries, unless = zip(*run, strict=True)
    is_next = seqs == tuple(range(cursor + 1, cursor + 1 + len(run)))
    is_usage = {UsageEntry}.issuperset(map(type, entries))
    return (seqs, entries) if is_next and is_usage and unless.count(None) == len(run) else None


class _RowIds(dict[Any, int]):
    """
    The ids of the rows of one table, by their values (or value); one that is new gets its row when it is looked up.

    A row is known before it is committed: a transaction that fails ends the store, and this with it.

    Args:
        more: Columns that are no part of the key, and what they begin with.
    """

    def __init__(self, execute: Callable[..., sqlite3.Cursor], table: str, *columns: str, **more: int) -> None:
        names = ", ".join(columns)
        for n, *key in execute(f"SELECT id, {names} FROM {table}"):
            self[tuple(key) if len(key) > 1 else key[0]] = n
        self._execute = execute
        self._insert = (
            f"INSERT INTO {table} ({', '.join((*columns, *more))})"
            f" VALUES ({', '.join(['?'] * len(columns) + [str(value) for value in more.values()])})"
        )

    def __missing__(self, key: Any) -> int:
        values = key if isinstance(key, tuple) else (key,)
        found = self[key] = self._execute(self._insert, values).lastrowid or 0
        return found


class LedgerReader:
    """
    The ledger for those who only ask. Threads may share one.

    The file is opened at the first question and again when it has been replaced; while there is none, or one without
    tables yet, every answer is empty.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def report(
        self,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        group_by: Sequence[str] = (),
    ) -> dict[str, object]:
        """
        Return the usage report (docs/events.md), `wiremeter.usage-report/1`.

        Args:
            since: Begin of the window: a time, text (`24h`, a date, RFC 3339), or None for everything.
            until: Its end, excluded.
            group_by: Any of `services.ledger.window.GROUPS`, beside model and client.

        Raises:
            LedgerQueryInvalid: A bound or a group that there is not.
            LedgerUnusable: The ledger cannot be read.
        """
        now_us = int(self._clock() * 1_000_000)
        groups = groups_from(group_by)
        since_us, until_us = window_from(since, until, datetime.fromtimestamp(now_us / 1_000_000, UTC))
        coarsest = Level.HOUR if "hour" in groups else Level.DAY if "day" in groups else Level.MONTH
        spans = cover(since_us, until_us, coarsest)
        by = None if coarsest is Level.MONTH else coarsest
        rows, exchanges = self._ask(lambda read: (read.sums(spans, by), read.exchanges(since_us, until_us)), ([], []))
        window = Window(
            since_us=None if since is None else since_us,
            until_us=None if until is None else until_us,
        )
        return usage_report(rows, exchanges, groups, window, now_us)

    def run_report(self, run: str, since: datetime, uid: int | None = None) -> dict[str, object]:
        """
        Return the usage report of one `wiremeter run`, from the records that carry its id.

        Args:
            since: When it began.
            uid: Of the redirected user, whose processes may be invisible: see `Snapshot.sums_of_run`.

        Raises:
            LedgerUnusable: The ledger cannot be read.
        """
        now_us = int(self._clock() * 1_000_000)
        since_us = unix_us(since)
        rows = self._ask(lambda read: read.sums_of_run(run, since_us, uid), [])
        return usage_report(rows, [], (), Window(since_us=since_us, until_us=None), now_us)

    def events(self, after: int = 0, limit: int = EVENTS_MAX) -> dict[str, object]:
        """
        Return the records with numbers above `after`, in their order, `wiremeter.usage-events/1`.

        Raises:
            LedgerQueryInvalid: A limit outside 1 to 1000, or a negative number.
            LedgerUnusable: The ledger cannot be read.
        """
        if not 1 <= limit <= EVENTS_MAX:
            raise LedgerQueryInvalid(f"limit is {limit}; 1 to {EVENTS_MAX} is allowed")
        if not 0 <= after < 1 << 63:
            raise LedgerQueryInvalid(f"after is {after}; the seq of a record, or 0, is allowed")
        events = self._ask(lambda read: read.events(after, limit), [])
        return {
            "schema": EVENTS_SCHEMA,
            "events": events,
            "next_after": events[-1]["seq"] if events else after,
        }

    def completions(
        self,
        start: int,
        end: int | None = None,
        bucket_width: str = "1d",
        *,
        limit: int | None = None,
        page: str | None = None,
        group_by: Sequence[str] = (),
    ) -> dict[str, object]:
        """
        Return one page in the shape of OpenAI's `GET /v1/organization/usage/completions`.

        Args:
            start, end: Unix seconds; the end is excluded, None is now.
            bucket_width: `1m`, `1h` or `1d`.
            limit: Buckets on the page.
            page: `next_page` of the answer before.

        Raises:
            LedgerQueryInvalid: A value that is not allowed.
            LedgerUnusable: The ledger cannot be read.
        """
        chosen = page_from(start, int(self._clock()) + 1 if end is None else end, bucket_width, limit, page)
        spans = cover(chosen.first_us, chosen.end_us, chosen.width.level)
        rows = self._ask(lambda read: read.sums(spans, chosen.width.level), [])
        return completions_page(rows, chosen, group_by)

    def close(self) -> None:
        """Close the file; the next question opens it again."""
        with self._lock:
            self._forget()

    def _ask(self, question: Callable[[Snapshot], Any], nothing: Any) -> Any:
        with self._lock:
            try:
                connection, version = self._open()
                if connection is None or not version:
                    return nothing
                connection.execute("BEGIN")
                try:
                    return question(Snapshot(connection.execute, version))
                finally:
                    connection.execute("ROLLBACK")
            except (sqlite3.Error, OSError) as error:
                self._forget()
                raise LedgerUnusable(f"{self._path} cannot be read: {error}") from error

    def _open(self) -> tuple[sqlite3.Connection | None, int]:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            self._forget()
            return None, 0
        if self._connection is None or self._file != (status.st_dev, status.st_ino):
            self._forget()
            uri = self._path.absolute().as_uri() + "?mode=ro"
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._file = (status.st_dev, status.st_ino)
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        return self._connection, version

    def _forget(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = self._file = None


@lru_cache(maxsize=256)
def _statement(insert: str, rows: int, columns: int, conflict: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{insert} {', '.join([row] * rows)}{conflict}"


def _statements(script: str) -> list[str]:
    statements: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    assert not pending.strip(), "a migration ends in the middle of a statement"
    return statements
