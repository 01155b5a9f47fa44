"""
How cost grows: series over connections, streams, event sizes, intercepted hosts and records; plots of them.

    python -m bench.growth [--quick] [--only NAME,…] [--folder docs/performance]

Through a real mitm, journal and bus on; what is plotted is the processor time of its process per unit of work, which
should not depend on how many there are. Ledger series are over one ledger that grows. Writes an SVG for each series and
`growth.json` beside them; series that are not chosen keep what they were.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.figures import machine, percentile, processor_s
from bench.plot import Points, svg
from bench.proxied import HOST, Client, Proxied, proxied
from bench.records import FIRST_US, YEAR_US, arrival
from bench.usage_api import ask, fill, filled, frontproxy, questions
from services.ledger.store import LedgerStore
from services.runtime.run import raise_descriptor_limit

_KIB = 1024
_HANDSHAKES_AT_ONCE = 16
_OPENED_PER_S = 150
_OPENING = "/v1internal:streamGenerateContent?alt=sse&n=1&size=400&every=0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What one plot shows."""

    title: str
    across: str
    upwards: str
    series: Mapping[str, Points]


async def _connected(stack: contextlib.AsyncExitStack, system: Proxied, count: int) -> list[Client]:
    gate = asyncio.Semaphore(_HANDSHAKES_AT_ONCE)

    async def one() -> Client:
        async with gate:
            return await stack.enter_async_context(system.client(HOST))

    return list(await asyncio.gather(*(one() for _ in range(count))))


def connections(quick: bool) -> Growth:
    """Kept connections, each with now and then a small request; the same number of requests in all."""
    numbers = (1, 10, 100) if quick else (1, 10, 100, 1000, 2000)
    requests = 500 if quick else 4000

    async def measured(system: Proxied, count: int) -> float:
        async with contextlib.AsyncExitStack() as stack:
            clients = await _connected(stack, system, count)
            await _in_turn(clients, count)
            before_s = processor_s(system.mitm)
            await _in_turn(clients, requests)
            return (processor_s(system.mitm) - before_s) / requests * 1e6

    async def memory(system: Proxied, count: int) -> float:
        before = _resident_kib(system.mitm)
        async with contextlib.AsyncExitStack() as stack:
            clients = await _connected(stack, system, count)
            await _in_turn(clients, count)
            return (_resident_kib(system.mitm) - before) / count

    costs, memories = [], []
    for count in numbers:
        with proxied() as system:
            costs.append((count, uvloop.run(measured(system, count))))
        if count >= 100:
            with proxied() as system:
                memories.append((count, uvloop.run(memory(system, count))))
    return Growth(
        title="Kept connections",
        across="connections",
        upwards="processor time per small request, µs; memory per connection, KiB",
        series={"µs per request": costs, "KiB per connection": memories},
    )


async def _in_turn(clients: list[Client], requests: int) -> None:
    """Make requests on one connection after the other, 16 of them at a time."""

    async def some(mine: list[Client]) -> None:
        for number in range(max(1, requests // at_once)):
            await mine[number % len(mine)].ask("/v1internal:countTokens")

    at_once = min(16, len(clients))
    await asyncio.gather(*(some(clients[each::at_once]) for each in range(at_once)))


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise ValueError("no VmRSS")


def streams(quick: bool) -> Growth:
    """Streams at once, at a common pace of so many events a second in all."""
    numbers = (1, 10, 100) if quick else (1, 10, 100, 1000, 2000)
    pace, seconds = 1000, 2 if quick else 6

    async def measured(system: Proxied, count: int) -> float:
        # Looked at in the middle, while all of them speak: what begins and ends is no matter of events.
        cycle_s = count / pace
        before_s, after_s = cycle_s + 1, cycle_s + 1
        events = int((before_s + seconds + after_s) / cycle_s) + 1
        path = f"/v1internal:streamGenerateContent?alt=sse&n={events}&size=400&every={cycle_s}"
        async with contextlib.AsyncExitStack() as stack:
            clients = await _connected(stack, system, count)
            # Each stream needs a connection to the provider of its own: all are held open until the last one is there.
            opening = f"/v1internal:streamGenerateContent?alt=sse&n=1&size=400&every={count / _OPENED_PER_S + 1}"
            await asyncio.gather(*(_after(n / _OPENED_PER_S, each, opening) for n, each in enumerate(clients)))
            async with asyncio.TaskGroup() as tasks:
                for number, each in enumerate(clients):
                    tasks.create_task(_after(number / pace, each, path))
                await asyncio.sleep(before_s)
                began, used_s = time.monotonic(), processor_s(system.mitm)
                await asyncio.sleep(seconds)
                used_s, took_s = processor_s(system.mitm) - used_s, time.monotonic() - began
        return used_s / (took_s * pace) * 1e6

    points = []
    for count in numbers:
        with proxied() as system:
            points.append((count, uvloop.run(measured(system, count))))
    return Growth(
        title=f"Streams at once, {pace:,} events a second in all",
        across="streams",
        upwards="processor time per event of 400 bytes, µs",
        series={"paced": points},
    )


async def _after(pause_s: float, client: Client, path: str) -> int:
    await asyncio.sleep(pause_s)
    return await client.ask(path)


def event_sizes(quick: bool) -> Growth:
    """One stream, as fast as it goes, of events of one size."""
    sizes = [1 << power for power in ((10, 14, 20) if quick else (10, 12, 14, 16, 18, 20, 22, 23))]

    async def measured(system: Proxied, size: int) -> float:
        count = max(4, (4 << 20 if quick else 64 << 20) // size)
        async with system.client(HOST) as client:
            await client.ask(_OPENING)
            before_s = processor_s(system.mitm)
            got = await client.ask(f"/v1internal:streamGenerateContent?alt=sse&n={count}&size={size}&every=0")
            return (processor_s(system.mitm) - before_s) / got * 1e9

    points = []
    with proxied() as system:
        for size in sizes:
            points.append((size / _KIB, uvloop.run(measured(system, size))))
    return Growth(
        title="Size of an event, one stream as fast as it goes",
        across="KiB per event",
        upwards="processor time per MB, ms",
        series={"one stream": points},
    )


def hosts(quick: bool) -> Growth:
    """Hosts on the interception list, all in use: a connection and a request to each in turn."""
    numbers = (1, 10) if quick else (1, 10, 100, 1000)
    count = 50 if quick else 1000

    async def visit(system: Proxied, names: list[str]) -> float:
        before_s = processor_s(system.mitm)
        for name in names:
            async with system.client(name) as client:
                await client.ask("/v1internal:countTokens")
        return (processor_s(system.mitm) - before_s) / len(names) * 1e6

    fresh, known = [], []
    for number in numbers:
        names = [f"h{each}.googleapis.com" for each in range(number)]
        with proxied(hosts=names) as system:
            fresh.append((number, uvloop.run(visit(system, names))))
            visits = [names[each % number] for each in range(count)]
            known.append((number, uvloop.run(visit(system, visits))))
    return Growth(
        title="Intercepted hosts, a connection and a request to each in turn",
        across="hosts on the list, all in use",
        upwards="processor time per connection, µs",
        series={"first visit": fresh, "later visits": known},
    )


def ledger(quick: bool) -> Growth:
    """A ledger that grows to its size: what is asked of it."""
    return _ledger_growth(quick)[0]


def commits(quick: bool) -> Growth:
    """The same ledger: what a commit costs."""
    return _ledger_growth(quick)[1]


_ledger_grown: dict[bool, tuple[Growth, Growth]] = {}


def _ledger_growth(quick: bool) -> tuple[Growth, Growth]:
    if quick not in _ledger_grown:
        _ledger_grown[quick] = _grow_ledger((10_000, 30_000) if quick else (10**4, 10**5, 10**6, 10**7))
    return _ledger_grown[quick]


def _grow_ledger(sizes: tuple[int, ...]) -> tuple[Growth, Growth]:
    step_us = YEAR_US // max(sizes)
    answers: dict[str, list[tuple[float, float]]] = {}
    costs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        home, rows = Path(folder), 0
        for size in sizes:
            with contextlib.closing(filled(home / "ledger.sqlite3")) as store:
                fill(store, rows + 1, size + 1, step_us)
            rows = size
            with contextlib.closing(LedgerStore(home / "ledger.sqlite3")) as store:
                costs.append((size, _commit_cost_us(store, rows)))
                rows = store.last_seq
            with frontproxy(home) as port:
                for what, path in _asked(rows, step_us).items():
                    ask(port, path, 10)  # the first ones open and read what stays in memory then
                    times_ms = [each * 1e3 for each in ask(port, path, 200)]
                    answers.setdefault(what, []).append((size, percentile(times_ms, 50)))
    across = "records in the ledger"
    return (
        Growth(title="The usage API over a growing ledger", across=across, upwards="answer, p50, ms", series=answers),
        Growth(
            title="Commits of 100 records to a growing ledger, durable",
            across=across,
            upwards="processor time per record, median of the commits, µs",
            series={"commit": costs},
        ),
    )


def _asked(rows: int, step_us: int) -> Mapping[str, str]:
    """Questions that reach into what there is, however little."""
    end_us = FIRST_US + rows * step_us
    every = questions(rows)
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((end_us - 12_345_678_901) / 1e6))
    return {
        "everything": every["GET /v1/usage, everything"],
        "last 3½ hours": f"/v1/usage?since={since}",
        "a page of 100 records": every["GET /v1/usage/events, a page of 100"],
    }


def _commit_cost_us(store: LedgerStore, rows: int) -> float:
    batches = [
        [arrival(number, FIRST_US + number * 1000) for number in range(first, first + 100)]
        for first in range(rows + 1, rows + 2001, 100)
    ]
    taken_us = []
    for batch in batches:
        began = time.process_time()
        store.commit(batch)
        taken_us.append((time.process_time() - began) / len(batch) * 1e6)
    return percentile(taken_us, 50)


SERIES: Mapping[str, Callable[[bool], Growth]] = {
    "connections": connections,
    "streams": streams,
    "event-sizes": event_sizes,
    "hosts": hosts,
    "ledger": ledger,
    "commits": commits,
}


def main() -> int:
    """Measure and draw what was chosen."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="How cost grows.")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller; to see that it works")
    parser.add_argument("--only", default="", help="series, separated by commas")
    parser.add_argument("--folder", type=Path, default=Path("run", "growth"))
    chosen = parser.parse_args()
    raise_descriptor_limit()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    path = chosen.folder / "growth.json"
    known = json.loads(path.read_text()) if path.exists() else {"series": {}}
    for name in [each for each in chosen.only.split(",") if each] or SERIES:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        growth = SERIES[name](chosen.quick)
        (chosen.folder / f"{name}.svg").write_text(svg(growth.title, growth.across, growth.upwards, growth.series))
        known["series"][name] = {"title": growth.title, "upwards": growth.upwards, "points": growth.series}
        for line, points in growth.series.items():
            print(f"{name}, {line}: " + ", ".join(f"{x:,g}: {y:,.4g}" for x, y in points))
    path.write_text(json.dumps({"machine": machine()} | {"series": known["series"]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
