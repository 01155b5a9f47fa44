"""From the bus to the ledger and out again, with a disk that fails in between. (tests/processes has the real kills.)"""

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from services.accountant.attribution import Attribution
from services.accountant.ingest import Ingest
from services.accountant.intake import Intake
from services.bus.addresses import EXCHANGE_TOPIC, HELLO_TOPIC, USAGE_TOPIC, Addresses
from services.bus.journal import Journal
from services.bus.publisher import ExchangePublisher, Publisher
from services.bus.subscriber import Subscriber
from services.ledger.store import LedgerReader, LedgerStore, LedgerUnusable
from services.runtime.logs import Logs
from tests.support.records import usage_json
from tests.support.short_directory import run_directory

__all__ = ["run_directory"]


class Desk:
    """An ingest, a publisher and a subscriber of the usage topic."""

    def __init__(self, directory: Path, commit_interval_s: float = 0.001, batch_records_max: int = 10) -> None:
        self.addresses = Addresses(directory)
        self.ledger = directory / "ledger.sqlite3"
        self.log = io.BytesIO()
        logs = Logs("accountant", sink=self.log)
        self.exchanges = Subscriber(bind=[self.addresses.exchange], topics=[EXCHANGE_TOPIC, HELLO_TOPIC])
        self.marks = Publisher(bind=[self.addresses.mark])
        self.usage = Publisher(bind=[self.addresses.usage])
        self.heard = Subscriber(connect=[self.addresses.usage], topics=[USAGE_TOPIC])
        self.ingest = Ingest(
            ledger=self.ledger,
            intake=Intake(Attribution(), pending_max=1000),
            exchanges=self.exchanges,
            marks=self.marks,
            usage=self.usage,
            commit_interval_s=commit_interval_s,
            batch_records_max=batch_records_max,
            logs=logs,
        )
        journal = Journal.open(directory / "journal", "mitm-0")
        self.publisher = ExchangePublisher(journal, self.addresses, logs)

    async def run(self, story: Callable[["Desk"], Awaitable[None]]) -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.ingest.run()), tasks.create_task(self.publisher.run())]
            await story(self)
            for each in running:
                each.cancel()
        await self.publisher.close()
        for part in (self.ingest, self.exchanges, self.marks, self.usage, self.heard):
            part.close()

    def finish(self, first: int, end: int) -> None:
        for number in range(first, end):
            self.publisher.finish(None, [usage_json(str(number))])

    def events(self, after: int = 0) -> list[dict[str, object]]:
        with closing(LedgerReader(self.ledger)) as reader:
            return reader.events(after)["events"]  # type: ignore[return-value]

    async def committed(self, count: int) -> None:
        await self.until(lambda: self.ingest.facts()["records_committed"] == count)

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 what is waited for happens behind sockets and on other threads
            await asyncio.sleep(0.01)


async def told(directory: Path, story: Callable[[Desk], Awaitable[None]], **how: Any) -> None:
    """Play one story; the parts need the loop when they are made."""
    await Desk(directory, **how).run(story)


def test_what_is_published_is_committed_and_numbered(run_directory: Path) -> None:
    """The ledger has a record before anyone hears of it; the topic names provider and model."""

    async def story(desk: Desk) -> None:
        desk.finish(1, 2)
        await desk.committed(1)
        desk.finish(2, 60)
        topic, record = await anext(desk.heard)
        while record["event_id"] != "59":
            following = (await anext(desk.heard))[1]
            assert following["seq"] == record["seq"] + 1  # type: ignore[operator]
            record = following
        assert topic == "usage.gcp_gen_ai.gemini-3-flash"
        assert list(record)[:2] == ["schema", "seq"]
        assert desk.events(58) == [record]
        assert desk.ingest.problem is None

    uvloop.run(told(run_directory, story))


def test_the_first_record_after_a_pause_waits_for_no_company(run_directory: Path) -> None:
    """However far apart commits are kept: an hour would be noticed."""

    async def story(desk: Desk) -> None:
        desk.finish(1, 2)
        await desk.committed(1)

    uvloop.run(told(run_directory, story, commit_interval_s=3600.0))


def test_records_that_come_in_crowds_share_commits(run_directory: Path) -> None:
    """After one of hundreds the next waits for company, from the end of that one on; none is lost, and all in order."""

    async def story(desk: Desk) -> None:
        desk.finish(1, 2000)
        await desk.committed(1999)
        numbers = [event["event_id"] for after in (0, 1000) for event in desk.events(after)]
        assert numbers == [str(number) for number in range(1, 2000)]

    uvloop.run(told(run_directory, story, batch_records_max=1000))


def test_a_ledger_that_fails_is_tried_again_and_nothing_is_lost(run_directory: Path) -> None:
    """First it cannot be opened, then it has no room; health says so until it is over."""

    async def story(desk: Desk) -> None:
        desk.ledger.mkdir()
        desk.finish(1, 20)
        await desk.until(lambda: "unable to open" in str(desk.ingest.problem))
        desk.ledger.rmdir()
        await desk.committed(19)
        store = desk.ingest._store
        assert store is not None
        store._connection.execute("PRAGMA max_page_count=20")
        desk.finish(20, 300)
        await desk.until(lambda: "full" in str(desk.ingest.problem))
        await desk.committed(299)
        assert desk.ingest.problem is None
        numbers = [event["event_id"] for event in desk.events()]
        assert numbers == [str(number) for number in range(1, 300)]
        failed = [orjson.loads(line) for line in desk.log.getvalue().splitlines() if b"ledger.failed" in line]
        assert [line["level"] for line in failed] == ["error"] * len(failed)

    uvloop.run(told(run_directory, story))


def test_a_ledger_that_opens_after_the_end_is_closed(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread can't be called back; what it opens is left to nobody."""
    began, may_go_on = threading.Event(), threading.Event()
    closed: list[LedgerStore] = []

    class Slow(LedgerStore):
        def __init__(self, path: Path) -> None:
            began.set()
            may_go_on.wait(10)
            super().__init__(path)

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr("services.accountant.ingest.LedgerStore", Slow)

    async def story(desk: Desk) -> None:
        await desk.until(began.is_set)
        asyncio.get_running_loop().call_later(0.05, may_go_on.set)  # the end comes first

    uvloop.run(told(run_directory, story))
    assert len(closed) == 1


def test_a_commit_that_fails_at_the_end_does_not_hold_it_up(run_directory: Path) -> None:
    """Whoever was told to go goes, though the ledger would be tried again."""
    began, may_go_on = threading.Event(), threading.Event()

    async def story(desk: Desk) -> None:
        desk.finish(1, 2)
        await desk.committed(1)
        store = desk.ingest._store
        assert store is not None

        def fail(_: object) -> None:
            began.set()
            may_go_on.wait(10)
            store.close()
            raise LedgerUnusable("the disk is gone")

        store.commit = fail  # type: ignore[assignment, method-assign]
        desk.finish(2, 3)
        await desk.until(began.is_set)
        asyncio.get_running_loop().call_later(0.05, may_go_on.set)  # the end comes first

    uvloop.run(told(run_directory, story))
