"""
What a record costs between mitm and the ledger, in microseconds and records per second.

    python -m bench.ledger [--records 20000] [--rows 200000] [--directory DIR]

Prints one line per measurement: journal appends, sending, one way over the bus, commits with durability, the whole way
from `finish` to committed, and a report over a large ledger. Everything is made in a temporary directory below DIR and
removed again; what counts is the disk under it. Best of several rounds where others on the machine may disturb.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from services.bus.addresses import EXCHANGE_TOPIC, Addresses
from services.bus.delivery import encode_batch
from services.bus.journal import Journal
from services.bus.publisher import ExchangePublisher, Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import decode, encode
from services.events.exchange import ByteCount, Client, Timing, UsageRecorded
from services.events.usage import Outcome
from services.ledger.entry import Arrival, Source, usage_entry
from services.ledger.store import LedgerReader, LedgerStore
from services.ledger.window import text_from
from services.runtime.logs import Logs

ROUNDS = 5
# 2026-01-01T00:00:00Z
FIRST_US = 1_767_225_600_000_000


def record(number: int, at_us: int = FIRST_US) -> UsageRecorded:
    """Return a record of the usual size, of one of some models and clients."""
    return UsageRecorded(
        event_id=f"01J{number:023d}",
        at=text_from(at_us),
        exchange_id=f"01K{number:023d}",
        provider="gcp.gen_ai",
        dialect="google-cloudcode",
        operation="generate_content",
        host="daily-cloudcode-pa.googleapis.com",
        request_model="gemini-3-flash",
        response_model="gemini-3-flash",
        model=f"model-{number % 4}",
        response_id=f"response-{number:020d}",
        outcome=Outcome.OK if number % 20 else Outcome.TRUNCATED,
        finish_reasons=("STOP",),
        http_status=200,
        usage={"input_tokens": 1514, "output_tokens": 77, "reasoning_output_tokens": 52, "total_tokens": 1591},
        timing=Timing(started_at=text_from(at_us), first_byte_ms=412.7, duration_ms=1830.2),
        bytes=ByteCount(up=48211, down=3920),
        client=Client(uid=998, pid=4711, executable="language_server", label=f"client-{number % 2}"),
    )


def show(what: str, value: float, unit: str, note: str = "") -> None:
    """Print one measurement."""
    print(f"{what:<58}{value:>12,.1f} {unit:<10}{note}", flush=True)


def best_us(work: Callable[[], object], count: int) -> float:
    """Return microseconds per item of the best round; `work` does `count` items."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def journal_costs(directory: Path) -> None:
    """Appends without fsync, as in the data path."""
    journal = Journal.open(directory / "journal", "bench")
    final = encode(record(1))
    draft = encode(record(2))
    progress = b'{"usage":{"input_tokens":1514,"output_tokens":77},"response_model":"gemini-3-flash"}'
    keys = [f"01K{number:023d}" for number in range(1000)]

    def starts() -> None:
        for key in keys:
            journal.start(key, draft)

    def progresses() -> None:
        for key in keys:
            journal.progress(key, progress)

    def finishes() -> None:
        for key in keys:
            journal.finish(key, [final])

    show("journal start", best_us(starts, len(keys)), "us", f"{len(draft)} bytes")
    show("journal progress", best_us(progresses, len(keys)), "us", f"{len(progress)} bytes")
    show("journal finish", best_us(finishes, len(keys)), "us", f"{len(final)} bytes")

    began = time.perf_counter()
    for _ in range(50):
        journal.finish(None, [final])
        Journal.sync(journal.take_unsynced())
    show("fdatasync after one append", (time.perf_counter() - began) / 50 * 1e6, "us", "on its own thread, every 50 ms")

    def read_all() -> None:
        first = 1
        while found := journal.read(first, 64, 1 << 18):
            first += len(found)

    read_all()
    show("journal read back, per record", best_us(read_all, journal.last), "us", "64 at a time, place kept")
    journal.close(0)


def codec_costs() -> None:
    """What a record costs in Python beside disk and socket."""
    some = record(1)
    data = encode(some)
    show("encode a record", best_us(lambda: [encode(some) for _ in range(1000)], 1000), "us", f"{len(data)} bytes")
    show("decode and check a record", best_us(lambda: [decode(UsageRecorded, data) for _ in range(1000)], 1000), "us")
    show("record to row", best_us(lambda: [usage_entry(some) for _ in range(1000)], 1000), "us")


async def bus_costs(directory: Path, records: int) -> None:
    """Batches over ipc, without journal and ledger."""
    endpoint = Addresses(directory).exchange
    receiver = Subscriber(bind=[endpoint], topics=[EXCHANGE_TOPIC], high_water_mark=100_000)
    sender = Publisher(connect=[endpoint], high_water_mark=100_000)
    data = encode(record(1))
    while True:
        sender.send(EXCHANGE_TOPIC, b"{}")
        try:
            async with asyncio.timeout(0.05):
                await anext(receiver)
            break
        except TimeoutError:
            continue
    for size in (1, 64):
        batches = records // size
        began = time.perf_counter()
        for number in range(batches):
            sender.send(EXCHANGE_TOPIC + "bench", encode_batch("bench", "0" * 32, number + 1, [data] * size))
        sent = time.perf_counter() - began
        show(f"encode and send, {size} per message, per record", sent / batches / size * 1e6, "us")
        got = 0
        while got < batches:
            got += len((await anext(receiver))[1]) > 0
        whole = time.perf_counter() - began
        show(f"sent and received, {size} per message, per record", whole / batches / size * 1e6, "us")
    sender.close()
    receiver.close()


def ledger_costs(directory: Path, records: int) -> None:
    """Commits with `synchronous=FULL`."""
    store = LedgerStore(directory / "commits.sqlite3")
    source = Source("bench", "0" * 32)
    seq = 0
    for size in (1, 10, 100, 1000):
        count = min(records, 200 * size)
        entries = [usage_entry(record(number, FIRST_US + number * 1_000_000)) for number in range(count)]
        began = time.perf_counter()
        for cut in range(0, count, size):
            batch = entries[cut : cut + size]
            store.commit([Arrival(source=source, seq=seq + n, entry=entry) for n, entry in enumerate(batch, 1)])
            seq += len(batch)
        took = time.perf_counter() - began
        rate = f"{count / took:,.0f} records/s, durable"
        show(f"commit, {size} per transaction, per record", took / count * 1e6, "us", rate)
    store.close()


def report_costs(directory: Path, rows: int) -> None:
    """A year of records, and what is asked of it."""
    path = directory / "year.sqlite3"
    store = LedgerStore(path)
    # Only for filling: the sums come out the same.
    store._connection.execute("PRAGMA synchronous=OFF")
    source = Source("bench", "0" * 32)
    step_us = 365 * 86_400_000_000 // rows
    for first in range(0, rows, 5000):
        numbers = range(first, min(rows, first + 5000))
        store.commit(
            [Arrival(source=source, seq=n + 1, entry=usage_entry(record(n, FIRST_US + n * step_us))) for n in numbers]
        )
    store.close()
    size_mb = path.stat().st_size / 1e6
    show("ledger of a year", rows, "records", f"{size_mb:,.0f} MB, {size_mb * 1e6 / rows:,.0f} bytes per record")
    reader = LedgerReader(path)
    middle = text_from(FIRST_US + 200 * 86_400_000_000 + 1_234_567_890)
    questions: dict[str, Callable[[], object]] = {
        "report, everything": lambda: reader.report(),
        "report, half a year cut inside an hour": lambda: reader.report(middle),
        "report, 24 hours cut inside hours": lambda: reader.report(
            middle, text_from(FIRST_US + 202 * 86_400_000_000 - 7)
        ),
        "report, everything by day": lambda: reader.report(group_by=["day"]),
        "events, a page of 100": lambda: reader.events(rows // 2, 100),
        "completions, 31 days": lambda: reader.completions(FIRST_US // 1_000_000, None, "1d", limit=31),
    }
    for what, question in questions.items():
        show(what, best_us(question, 1) / 1000, "ms")
    reader.close()


async def whole_way(directory: Path, records: int) -> None:
    """A real accountant: from `finish` to the mark that says committed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WIREMETER_")}
    environ |= {
        "WIREMETER_HOME": str(directory),
        "WIREMETER_CONFIG": os.devnull,
        "WIREMETER_ACCOUNTANT_USAGE_ENDPOINT": "tcp://127.0.0.1:18743",
    }
    command = [sys.executable, "-m", "services.accountant"]
    accountant = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 nothing runs yet
    journal = Journal.open(directory / "journal", "bench")
    publisher = ExchangePublisher(journal, Addresses(directory / "run"), Logs("bench"))
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(publisher.run())
            while not publisher.facts()["accountant_heard"]:  # noqa: ASYNC110 told by another process
                await asyncio.sleep(0.01)
            alone = []
            for number in range(100):
                began = time.perf_counter()
                publisher.finish(None, [encode(record(number))])
                while publisher.facts()["unacknowledged"]:  # noqa: ASYNC110 told by another process
                    await asyncio.sleep(0.0002)
                alone.append(time.perf_counter() - began)
            show("finish to committed and marked, alone, p50", sorted(alone)[50] * 1e3, "ms")
            data = [encode(record(number)) for number in range(records)]
            began, cpu_began = time.perf_counter(), time.process_time()
            for number, each in enumerate(data):
                publisher.finish(None, [each])
                if number % 200 == 199:
                    await asyncio.sleep(0)
            finished = time.process_time() - cpu_began
            while publisher.facts()["unacknowledged"]:  # noqa: ASYNC110 told by another process
                await asyncio.sleep(0.002)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
            show("finish to committed and marked, a stream of records", records / took, "records/s", "durable")
            show("publisher's CPU in the finishing loop, per record", finished / records * 1e6, "us")
            show(
                "publisher's CPU until all is committed, per record", cpu / records * 1e6, "us", "reading back included"
            )
            running.cancel()
        await publisher.close()
    finally:
        accountant.terminate()
        accountant.wait()


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description="What a record costs between mitm and the ledger.")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--directory", type=Path, default=None)
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="wm-", dir=chosen.directory))
    os.umask(0o077)
    try:
        codec_costs()
        journal_costs(directory)
        uvloop.run(bus_costs(directory, chosen.records))
        ledger_costs(directory, chosen.records)
        uvloop.run(whole_way(directory, chosen.records))
        report_costs(directory, chosen.rows)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
