"""
What the usage API answers with over a ledger of a year: over HTTP, from a frontproxy that runs as in life.

The ledger is filled as the accountant fills it (rows, indexes, sums), only without waiting for the disk.
"""

import contextlib
import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from bench.figures import Figure, environ_for, percentile
from bench.records import FIRST_US, YEAR_US, year_of_arrivals
from services.ledger.store import LedgerStore
from services.ledger.window import text_from
from tests.support.checkout import PROJECT, free_ports

_BATCH = 5000
# Of a report, whatever its window and groups.
_GOAL_MS = 5.0
_DAY_US = 86_400_000_000
# Cut inside an hour on purpose: then rows must be added up, not only sums of hours, days and months.
_ODD_US = 1_234_567_890


def measure(rows: int, asked: int) -> Iterator[Figure]:
    """Ask each question `asked` times of a ledger of so many rows."""
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        home = Path(folder)
        with contextlib.closing(filled(home / "ledger.sqlite3")) as store:
            began = time.perf_counter()
            fill(store, 1, rows + 1, YEAR_US // rows)
            took_s = time.perf_counter() - began
        size = (home / "ledger.sqlite3").stat().st_size
        yield Figure(quantity=f"ledger of {rows:,} records: size on disk, per record", value=size / rows, unit="bytes")
        yield Figure(quantity=f"ledger of {rows:,} records: filling, per record", value=took_s / rows * 1e6, unit="µs")
        with frontproxy(home) as port:
            for what, path in questions(rows).items():
                times_ms = [each * 1e3 for each in ask(port, path, asked)]
                p50_ms, p99_ms = percentile(times_ms, 50), percentile(times_ms, 99)
                yield Figure(quantity=f"{what}, p50 of {asked}", value=p50_ms, unit="ms")
                goal_ms = _GOAL_MS if path.partition("?")[0] == "/v1/usage" else None
                yield Figure(quantity=f"{what}, p99 of {asked}", value=p99_ms, unit="ms", at_most=goal_ms)


def questions(rows: int) -> dict[str, str]:
    """Return what is asked, as paths."""

    def window(since_us: int, until_us: int) -> str:
        return f"since={quote(text_from(since_us))}&until={quote(text_from(until_us))}"

    middle = FIRST_US + 200 * _DAY_US + _ODD_US
    return {
        "GET /v1/usage, everything": "/v1/usage",
        "GET /v1/usage, half a year, cut inside hours": "/v1/usage?" + window(middle, middle + 150 * _DAY_US + _ODD_US),
        "GET /v1/usage, 24 hours, cut inside hours": "/v1/usage?" + window(middle, middle + _DAY_US),
        "GET /v1/usage, 31 days by day": "/v1/usage?" + window(middle, middle + 31 * _DAY_US) + "&group_by=day",
        "GET /v1/usage/events, a page of 100": f"/v1/usage/events?after={rows // 2}&limit=100",
        "GET /v1/organization/usage/completions, 31 days": (
            f"/v1/organization/usage/completions?start_time={FIRST_US // 1_000_000}&limit=31"
        ),
    }


def filled(path: Path) -> LedgerStore:
    """Open a ledger that does not wait for the disk: only for filling, what it holds is the same."""
    store = LedgerStore(path)
    store._connection.execute("PRAGMA synchronous=OFF")
    return store


def fill(store: LedgerStore, first: int, end: int, step_us: int) -> None:
    """Commit records `first` to `end - 1`."""
    for begin in range(first, end, _BATCH):
        store.commit(year_of_arrivals(begin, min(end, begin + _BATCH), step_us))


@contextlib.contextmanager
def frontproxy(home: Path) -> Iterator[int]:
    """Run frontproxy on a state directory; give its port."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "services.frontproxy"],
        cwd=PROJECT,
        env=environ_for(home, frontproxy_port=port),
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                ask(port, "/health", 1)
                break
            assert process.poll() is None, "frontproxy has ended"
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(port: int, path: str, times: int) -> list[float]:
    """Ask the same again and again on one connection; return seconds from question to the end of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    taken = []
    try:
        for _ in range(times):
            began = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            taken.append(time.perf_counter() - began)
            assert response.status == 200, body[:200]
    finally:
        connection.close()
    return taken
