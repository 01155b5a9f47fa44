"""
What a record costs the accountant, a process of its own: from the bus into the ledger and out to the topic, durable.

A publisher of ours hands over records as fast as they are taken. Processor time is the accountant's alone, both its
threads and ZeroMQ's.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from bench.figures import Figure, environ_for, percentile, processor_s
from bench.records import record
from services.bus.addresses import Addresses
from services.bus.journal import Journal
from services.bus.publisher import ExchangePublisher
from services.events.codec import encode
from services.runtime.logs import Logs
from tests.support.checkout import PROJECT, free_ports

# So many are finished before others get their turn, as in a busy mitm.
_IN_A_ROW = 200


def measure(records: int) -> Iterator[Figure]:
    """Hand over one at a time, then `records` as fast as they go."""
    with tempfile.TemporaryDirectory(prefix="wm-") as home:
        yield from uvloop.run(_measured(Path(home), records))


async def _measured(home: Path, records: int) -> list[Figure]:
    async with running_accountant(home) as accountant, running_publisher(home) as publisher:
        alone_ms = [await _one(publisher, number) * 1e3 for number in range(200)]
        data = [encode(record(number)) for number in range(records)]
        cpu_s, own_s, began = processor_s(accountant.pid), time.process_time(), time.perf_counter()
        for number, each in enumerate(data):
            publisher.finish(None, [each])
            if number % _IN_A_ROW == _IN_A_ROW - 1:
                await asyncio.sleep(0)
        await _settled(publisher, 0.002)
        took_s, own_s = time.perf_counter() - began, time.process_time() - own_s
        cpu_s = processor_s(accountant.pid) - cpu_s
    return [
        Figure(quantity="finish to committed and marked, one alone, p50", value=percentile(alone_ms, 50), unit="ms"),
        Figure(quantity="finish to committed and marked, one alone, p99", value=percentile(alone_ms, 99), unit="ms"),
        Figure(quantity="accountant, whole way, processor time per record", value=cpu_s / records * 1e6, unit="µs"),
        Figure(
            quantity="accountant, whole way, records per second of a core",
            value=records / cpu_s,
            unit="records/s",
            at_least=50_000,
        ),
        Figure(quantity="accountant, whole way, as it went", value=records / took_s, unit="records/s"),
        Figure(quantity="publisher (journal, bus), per record", value=own_s / records * 1e6, unit="µs"),
    ]


async def _one(publisher: ExchangePublisher, number: int) -> float:
    began = time.perf_counter()
    publisher.finish(None, [encode(record(number))])
    await _settled(publisher, 0.0002)
    return time.perf_counter() - began


async def _settled(publisher: ExchangePublisher, look_every_s: float) -> None:
    while publisher.facts()["unacknowledged"]:  # noqa: ASYNC110 told by another process
        await asyncio.sleep(look_every_s)


@asynccontextmanager
async def running_accountant(home: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run an accountant on a state directory."""
    environ = environ_for(home, accountant_usage_endpoint=f"tcp://127.0.0.1:{free_ports(1)[0]}")
    command = [sys.executable, "-m", "services.accountant"]
    accountant = subprocess.Popen(command, cwd=PROJECT, env=environ, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        yield accountant
    finally:
        accountant.terminate()
        accountant.wait()


@asynccontextmanager
async def running_publisher(home: Path) -> AsyncIterator[ExchangePublisher]:
    """Run a publisher in this process, once the accountant has been heard."""
    publisher = ExchangePublisher(
        Journal.open(home / "journal", "bench"), Addresses(home / "run"), Logs("bench", sink=_Nowhere())
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(publisher.run())
        while not publisher.facts()["accountant_heard"]:  # noqa: ASYNC110 told by another process
            await asyncio.sleep(0.01)
        yield publisher
        running.cancel()
    await publisher.close()


class _Nowhere:
    def write(self, line: bytes, /) -> object:
        return None

    def flush(self) -> object:
        return None
