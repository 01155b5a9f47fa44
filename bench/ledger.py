"""
What a record costs between mitm and the ledger, stage by stage: codec, journal, bus, commit.

Each stage runs alone in this process. The journal is appended to as the data path does, without waiting for the disk;
commits wait for it (`synchronous=FULL`), as the accountant's do.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import uvloop

from bench.figures import Figure, best_us
from bench.records import FIRST_US, SOURCE, arrival, members, record
from services.bus.addresses import EXCHANGE_TOPIC, Addresses
from services.bus.delivery import encode_batch
from services.bus.journal import Journal
from services.bus.publisher import BATCH_RECORDS_MAX, Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import checked, decode, encode
from services.events.exchange import UsageRecorded
from services.ledger.entry import usage_entry
from services.ledger.store import LedgerStore

_SYNCS = 50
_COMMIT_SIZES = (1, 10, 100, 1000)
_COMMITS_MAX = 100


def measure(records: int) -> Iterator[Figure]:
    """Measure every stage, with about so many records each."""
    yield from codec(1000)
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        yield from journal(Path(folder), 1000)
        yield from uvloop.run(_bus(Path(folder), records))
        yield from commits(Path(folder), records)


def codec(count: int) -> Iterator[Figure]:
    """What a record costs in Python beside disk and socket."""
    some = record(1)
    data = encode(some)
    parsed, checked_members = orjson.loads(data), members(1)
    work = {
        "parse a record": lambda: orjson.loads(data),
        "check a record": lambda: checked(UsageRecorded, parsed),
        "decode a record to a value": lambda: decode(UsageRecorded, parsed),
        "encode a record": lambda: encode(some),
        "record to row": lambda: usage_entry(checked_members),
    }
    for what, once in work.items():
        took_us = best_us(lambda once=once: [once() for _ in range(count)], count)  # type: ignore[misc]
        yield Figure(quantity=f"{what}, {len(data)} bytes", value=took_us, unit="µs")


def journal(directory: Path, count: int) -> Iterator[Figure]:
    """Appends, and what the disk takes to make them durable."""
    made = Journal.open(directory / "journal", "bench")
    final, draft = encode(record(1)), encode(record(2))
    progress = b'{"usage":{"input_tokens":1514,"output_tokens":77},"response_model":"gemini-3-flash"}'
    keys = [f"01K{number:023d}" for number in range(count)]

    def starts() -> None:
        for key in keys:
            made.start(key, draft)

    def progresses() -> None:
        for key in keys:
            made.progress(key, progress)

    def finishes() -> None:
        for key in keys:
            made.finish(key, [final])

    yield Figure(quantity=f"journal start, {len(draft)} bytes", value=best_us(starts, count), unit="µs")
    yield Figure(quantity=f"journal progress, {len(progress)} bytes", value=best_us(progresses, count), unit="µs")
    yield Figure(quantity=f"journal finish, {len(final)} bytes", value=best_us(finishes, count), unit="µs")
    began = time.perf_counter()
    for _ in range(_SYNCS):
        made.finish(None, [final])
        Journal.sync(made.take_unsynced())
    took_us = (time.perf_counter() - began) / _SYNCS * 1e6
    yield Figure(quantity="journal fdatasync, on a thread, at most every 50 ms", value=took_us, unit="µs")

    def read_all() -> None:
        first = 1
        while found := made.read(first, BATCH_RECORDS_MAX, 1 << 18):
            first += len(found)

    yield Figure(quantity="journal read back, per record", value=best_us(read_all, made.last), unit="µs")
    made.close(0)


async def _bus(directory: Path, records: int) -> list[Figure]:
    endpoint = Addresses(directory).exchange
    receiver = Subscriber(bind=[endpoint], topics=[EXCHANGE_TOPIC], high_water_mark=records + 1)
    sender = Publisher(connect=[endpoint], high_water_mark=records + 1)
    data = encode(record(1))
    figures = []
    while receiver.receive_now() is None:
        sender.send(EXCHANGE_TOPIC, b"{}")  # until the subscription has arrived
        await asyncio.sleep(0.01)
    for size in (1, BATCH_RECORDS_MAX):
        count = records // size
        while receiver.receive_now() is not None:
            pass
        began = time.thread_time()
        for number in range(count):
            sender.send(EXCHANGE_TOPIC + "bench", encode_batch("bench", SOURCE.epoch, number + 1, [data] * size))
        sent = time.thread_time() - began
        got = 0
        while got < count:
            got += len((await anext(receiver))[1]) > 0
        received = time.thread_time() - began - sent
        what = f"{size} in a message, per record"
        figures.append(Figure(quantity=f"bus, encode and send, {what}", value=sent / count / size * 1e6, unit="µs"))
        figures.append(
            Figure(quantity=f"bus, receive and parse, {what}", value=received / count / size * 1e6, unit="µs")
        )
    sender.close()
    receiver.close()
    return figures


def commits(directory: Path, records: int) -> Iterator[Figure]:
    """Transactions of several sizes, durable."""
    store = LedgerStore(directory / "commits.sqlite3")
    seq = 0
    for size in _COMMIT_SIZES:
        count = min(records, _COMMITS_MAX * size)
        arrivals = [arrival(seq + number, FIRST_US + number * 10_000) for number in range(1, count + 1)]
        began, cpu_began = time.perf_counter(), time.process_time()
        for cut in range(0, count, size):
            store.commit(arrivals[cut : cut + size])
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        seq += count
        what = f"durable commits of {size}"
        goal = 50_000 if size == max(_COMMIT_SIZES) else None
        yield Figure(quantity=f"{what}: processor time per record", value=cpu_s / count * 1e6, unit="µs")
        yield Figure(quantity=f"{what}: as it went", value=count / took_s, unit="records/s", at_least=goal)
    store.close()
    os.unlink(directory / "commits.sqlite3")
