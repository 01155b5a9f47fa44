"""
A publisher for tests, as a process: journals and publishes without end until it is killed.

    python -m tests.support.publisher_driver <state directory> <publisher> <file> <records per s>

A line `started <exchange id>` or `finished <exchange id>` is appended to the file when the journal has taken it, never
before. An exchange is finished when `OPEN_EXCHANGES` later ones have begun; one in five reports progress and is never
finished.
"""

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from services.bus.addresses import Addresses
from services.bus.journal import Journal
from services.bus.limits import JournalLimits
from services.bus.publisher import ExchangePublisher
from services.events.usage import Outcome
from services.runtime.logs import Logs
from services.runtime.run import tie_to_parent
from tests.support.records import usage_json

OPEN_EXCHANGES = 40
_TICK_S = 0.01


async def drive(home: Path, name: str, acknowledged: int, rate_per_s: int) -> None:
    """Publish until killed."""
    # Small segments, so that a short test sees many of them.
    journal = Journal.open(home / "journal", name, limits=JournalLimits(segment_bytes=256 * 1024))
    publisher = ExchangePublisher(journal, Addresses(home / "run"), Logs(name))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publisher.run())
        number = 0
        while True:
            for _ in range(max(1, int(rate_per_s * _TICK_S))):
                number += 1
                begin(publisher, key_of(journal, number), acknowledged)
                if number > OPEN_EXCHANGES:
                    go_on(publisher, key_of(journal, number - OPEN_EXCHANGES), number, acknowledged)
            await asyncio.sleep(_TICK_S)


def key_of(journal: Journal, number: int) -> str:
    """Name an exchange as no other life does."""
    return f"{journal.epoch[:8]}-{number}"


def begin(publisher: ExchangePublisher, key: str, acknowledged: int) -> None:
    """An exchange begins; what is written to `acknowledged` is on disk already."""
    draft = usage_json(key, exchange_id=key, outcome=Outcome.TRUNCATED, aborted_by="proxy", usage={})
    publisher.start(key, draft)
    os.write(acknowledged, b"started %b\n" % key.encode())


def go_on(publisher: ExchangePublisher, key: str, number: int, acknowledged: int) -> None:
    """It ends, or only reports how far it is."""
    if number % 5 == 1:
        publisher.progress(key, b'{"usage":{"input_tokens":7}}')
        return
    publisher.finish(key, [usage_json(key, exchange_id=key)])
    os.write(acknowledged, b"finished %b\n" % key.encode())


if __name__ == "__main__":
    tie_to_parent()
    descriptor = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    uvloop.run(drive(Path(sys.argv[1]), sys.argv[2], descriptor, int(sys.argv[4])))
