"""
What is asked of the database, as statements: sums of a window, exchanges, records in order.

Knows the tables (services.ledger.schema), not the database: `store` lends it a way to run statements.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import orjson

from services.ledger.entry import ExchangeSeries, Series, members_from
from services.ledger.periods import END_US, HOUR_US, WIDTHS_US, Level, Span, cover, period_of, start_of
from services.ledger.report import ExchangeRow, SumRow
from services.ledger.rollups import add_up_alike, add_up_at
from services.ledger.window import text_from

# Without the function in Python that a named tuple has between its class and a tuple: there are tens of thousands.
_row: Callable[[tuple[object, ...]], SumRow] = partial(tuple.__new__, SumRow)
_AS_IT_IS = "{}"
_SUMS = "sum(total), sum(reported)"


class Snapshot:
    """
    Questions to one state of the database.

    Args:
        execute: Runs one statement with its values, inside a read transaction.
        version: Of its tables; the writer brings them up to date, not who asks.
    """

    def __init__(self, execute: Callable[[str, Sequence[object]], Iterable[tuple[Any, ...]]], version: int) -> None:
        self._execute = execute
        self._version = version

    def sums(self, spans: Sequence[Span], by: Level | None = None) -> list[SumRow]:
        """
        Return the sums of a window that was cut into spans, over all or per period.

        Args:
            by: The periods: HOUR, DAY, or ROW for the microseconds of single records. What is coarser stays as it is.
        """
        found = self._execute("SELECT id, provider, model, label, uid, outcome FROM series", ())
        series = {n: Series(*key) for n, *key in found}
        names: dict[int, str] = dict(self._execute("SELECT id, name FROM measure", ()))
        rows: list[SumRow] = []
        for span in self._answerable(spans):
            level, period = _period_sql(span.level, by)
            if span.level is Level.ROW:
                rows += self._sums_of_rows(span, series, level, period.format("at_unix_us"))
                continue
            # What stays as it is needs no adding up: that takes half as long again as reading it.
            columns, group = ("total, reported", "") if period == _AS_IT_IS else (_SUMS, " GROUP BY 1, 2, 3")
            sums = self._execute(
                f"SELECT {period.format('period')}, series, measure, {columns} FROM rollup"
                f" WHERE level = ? AND period >= ? AND period < ?{group}",
                span,
            )
            rows += [_row((level, p, series[s], names[m], total, n)) for p, s, m, total, n in sums]
        return rows

    def _answerable(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Replace ten minutes that there are no sums for by rows: those of a ledger that is older than the level."""
        for span in spans:
            if span.level is Level.TEN_MINUTES and (kept := min(self._first_ten_minutes(), span.end)) > span.first:
                yield Span(Level.ROW, start_of(span.level, span.first), start_of(span.level, kept))
                span = Span(span.level, kept, span.end)
            if span.first < span.end:
                yield span

    def _first_ten_minutes(self) -> int:
        if self._version < 2:
            return period_of(Level.TEN_MINUTES, END_US)
        ((first,),) = self._execute("SELECT first_period FROM kept WHERE level = ?", (Level.TEN_MINUTES,))
        return int(first)

    def sums_of_run(self, run: str, since_us: int, uid: int | None) -> list[SumRow]:
        """
        Return the sums of the records that carry the id of a run.

        Args:
            since_us: When it began.
            uid: Take as well what processes of this user called since then that mitm could not see. Not even those of
                a prompt turn are left out: that a call belongs to one is guessed from user and time, too.
        """
        names = self._execute("SELECT id, provider, model, label, uid, outcome FROM series", ())
        series = {n: Series(*key) for n, *key in names}
        found = self._execute(
            "SELECT at_unix_us, series, counts FROM usage WHERE at_unix_us >= ?"
            " AND (json_extract(body, '$.client.run') = ?"
            " OR (json_extract(body, '$.client.uid') = ? AND json_extract(body, '$.timing.started_at') >= ?"
            " AND json_extract(body, '$.client.run') IS NULL AND json_extract(body, '$.client.pid') IS NULL))",
            (since_us, run, uid, text_from(since_us)),
        )
        sums = add_up_at(Level.MONTH, ((at, series[n], orjson.loads(counts)) for at, n, counts in found))
        return [
            _row((Level.MONTH, None, each, measure, *value))
            for (_, each), measures in sums.items()
            for measure, value in measures.items()
        ]

    def _sums_of_rows(self, span: Span, series: dict[int, Series], level: Level, period: str) -> list[SumRow]:
        # SQLite gathers what belongs together: there are hundreds of rows and a few groups.
        found = self._execute(
            f"SELECT {period}, series, group_concat(counts) FROM usage"
            " WHERE at_unix_us >= ? AND at_unix_us < ? GROUP BY 1, 2",
            span[1:],
        )
        rows: list[SumRow] = []
        for number, n, counts in found:
            sums = add_up_alike(series[n].outcome, orjson.loads(f"[{counts}]"))
            rows += [_row((level, number, series[n], measure, *value)) for measure, value in sums.items()]
        return rows

    def exchanges(self, since_us: int, until_us: int) -> list[ExchangeRow]:
        """Return the exchanges of a window, which is widened to whole hours: no rows of them are kept."""
        spans = cover(since_us // HOUR_US * HOUR_US, -(-until_us // HOUR_US) * HOUR_US)
        sums: dict[int, tuple[int, int, int]] = {}
        for span in spans:
            for n, *values in self._execute(
                "SELECT series, sum(exchanges), sum(bytes_up), sum(bytes_down) FROM exchange_rollup"
                " WHERE level = ? AND period >= ? AND period < ? GROUP BY series",
                span,
            ):
                count, up, down = sums.get(n, (0, 0, 0))
                sums[n] = (count + values[0], up + values[1], down + values[2])
        series = self._execute("SELECT id, host, endpoint, status_class FROM exchange_series", ())
        return [ExchangeRow(ExchangeSeries(*key), *sums[n]) for n, *key in series if n in sums]

    def events(self, after: int, limit: int) -> list[dict[str, object]]:
        """Return records in order."""
        found = self._execute("SELECT seq, body FROM usage WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [members_from(seq, body.encode()) for seq, body in found]


def _period_sql(level: Level, by: Level | None) -> tuple[Level, str]:
    """Return the level that the sums of a span get, and how SQL makes their periods of those that it has."""
    if by is None:
        return level, "NULL"
    if level >= by:
        return level, _AS_IT_IS
    return by, f"{{}} / {WIDTHS_US[by] // WIDTHS_US[level]}"
