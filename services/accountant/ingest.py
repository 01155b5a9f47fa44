"""
From the bus into the ledger and out again: batches are taken, committed on a thread of their own, marked, published.

The event loop answers hellos and takes batches while the disk works. A commit that fails puts everything back to what
the ledger says; the next attempt waits twice as long as the one before.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from services.accountant.intake import Intake
from services.bus.addresses import EXCHANGE_TOPIC, HELLO_TOPIC, MARK_TOPIC, usage_topic
from services.bus.delivery import CommitMarked, PublisherGreeted, batch_from
from services.bus.publisher import Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import EventInvalid, decode
from services.ledger.store import Commit, LedgerStore, LedgerUnusable
from services.runtime.logs import Logs

_RETRY_FIRST_S = 0.1
_RETRY_MAX_S = 5.0
# So many in a commit come from publishers that have more.
_CROWD_RECORDS = 256


class Ingest:
    """
    The way of the records. On cancellation of `run` nothing is half done: a commit that is under way ends first.

    Args:
        exchanges: Bound; `exchange.` and `hello.` arrive there.
        marks: Bound; goes to the publishers.
        usage: Bound; goes to everybody.
    """

    def __init__(
        self,
        *,
        ledger: Path,
        intake: Intake,
        exchanges: Subscriber,
        marks: Publisher,
        usage: Publisher,
        commit_interval_s: float,
        batch_records_max: int,
        logs: Logs,
    ) -> None:
        self._ledger = ledger
        self._intake = intake
        self._exchanges = exchanges
        self._marks = marks
        self._usage = usage
        self._commit_interval_s = commit_interval_s
        self._batch_records_max = batch_records_max
        self._logs = logs
        self._store: LedgerStore | None = None
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._committed = 0
        self._last_seq = 0
        self._malformed = 0
        self._commit_at = float("-inf")  # when the next commit may begin
        self._commit_failed = False  # a ledger that opens is not yet one that can be written
        self.problem: str | None = "the ledger is not open yet"

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_ledger())
            tasks.create_task(self._listen())

    def close(self) -> None:
        """Close the ledger; after `run` has ended."""
        self._thread.shutdown()
        if self._store is not None:
            self._store.close()
            self._store = None

    def facts(self) -> Mapping[str, object]:
        """Return numbers worth seeing."""
        return {
            "ledger_seq": self._last_seq,
            "records_committed": self._committed,
            "records_pending": len(self._intake.pending),
            "records_refused": self._intake.refused,
            "records_gone": self._intake.gone,
            "messages_malformed": self._malformed + self._exchanges.malformed,
        }

    # The bus.

    async def _listen(self) -> None:
        async for topic, members in self._exchanges:
            if self._store is None:
                continue  # without the ledger nobody knows what is next; publishers that hear nothing wait
            try:
                self._hear(topic, members)
            except EventInvalid:
                self._malformed += 1

    def _hear(self, topic: str, members: dict[str, object]) -> None:
        if topic.startswith(HELLO_TOPIC):
            hello = decode(PublisherGreeted, members)
            self._intake.greet(hello.publisher, hello.epochs)
            self._mark(hello.publisher, self._intake.marks(hello.publisher, [each.epoch for each in hello.epochs]))
        elif topic.startswith(EXCHANGE_TOPIC):
            self._intake.take(batch_from(members))
        if self._intake.pending:
            self._arrived.set()

    def _mark(self, publisher: str, marks: Mapping[str, int]) -> None:
        self._marks.publish(MARK_TOPIC + publisher, CommitMarked(publisher=publisher, marks=marks))

    # The ledger.

    async def _keep_ledger(self) -> None:
        retry_s = _RETRY_FIRST_S
        while True:
            try:
                await self._open()
                while True:
                    await self._commit_next()
                    retry_s = _RETRY_FIRST_S
            except LedgerUnusable as error:
                self._store = None
                if self.problem != str(error):
                    self._logs.error("ledger.failed", problem=str(error), retry_s=retry_s)
                self.problem = str(error)
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _RETRY_MAX_S)

    async def _open(self) -> None:
        opening = asyncio.get_running_loop().run_in_executor(self._thread, LedgerStore, self._ledger)
        try:
            store = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread opens it all the same, and nobody else would close it.
            with suppress(LedgerUnusable):
                (await opening).close()
            raise
        self._intake.reset(store.cursors)
        self._arrived.clear()
        self._last_seq = store.last_seq
        if self.problem is not None:
            self._logs.info("ledger.opened", seq=store.last_seq)
        self._store = store

    async def _commit_next(self) -> None:
        assert self._store is not None
        if not self._intake.pending:
            self._arrived.clear()
            if not self._commit_failed:
                self.problem = None
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        if len(self._intake.pending) < self._batch_records_max:
            # A commit costs nearly the same for one and for a hundred, so they keep a distance, in which records find
            # company. After a pause nobody waits: company gathers while the disk works.
            await asyncio.sleep(max(0.0, self._commit_at - loop.time()))
        self._commit_at = loop.time() + self._commit_interval_s
        arrivals = self._intake.hand_out(self._batch_records_max)
        store = self._store
        self._commit_failed = True
        commit = loop.run_in_executor(self._thread, store.commit, arrivals)
        try:
            self._publish(await asyncio.shield(commit))
        except asyncio.CancelledError:
            # What the thread is committing can't be called back: say what became of it, then go, also if it failed.
            with suppress(LedgerUnusable):
                self._publish(await commit)
            raise
        self._commit_failed = False
        self.problem = None
        if len(arrivals) >= _CROWD_RECORDS:
            # The marks that have just gone out bring the next window of records. A commit that begins with the first
            # message of it leaves the rest to another; waiting for the rest is more than a third fewer commits.
            self._commit_at = loop.time() + self._commit_interval_s

    def _publish(self, commit: Commit) -> None:
        self._intake.committed(commit.cursors)
        self._committed += commit.taken
        by_publisher: dict[str, dict[str, int]] = {}
        for source, cursor in commit.cursors.items():
            by_publisher.setdefault(source.publisher, {})[source.epoch] = cursor
        for publisher, marks in by_publisher.items():
            self._mark(publisher, marks)
        for seq, series, message in commit.published:
            self._usage.send(usage_topic(series.provider, series.model), message)
            self._last_seq = seq
