"""The publisher of exchanges against an accountant that is ours to direct."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from services.bus import publisher as module
from services.bus.addresses import EXCHANGE_TOPIC, HELLO_TOPIC, MARK_TOPIC, Addresses
from services.bus.delivery import CommitMarked, PublisherGreeted, batch_from
from services.bus.journal import Journal
from services.bus.limits import JournalLimits
from services.bus.publisher import ExchangePublisher, Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import decode
from tests.support.short_directory import run_directory

__all__ = ["run_directory"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what is done every few seconds."""
    monkeypatch.setattr(module, "_HELLO_AT_REST_S", 0.2)
    monkeypatch.setattr(module, "_EXPIRE_S", 0.2)


class Notes:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.said.append((event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.said.append((event, fields))


class Clerk:
    """Takes what is next in line, and marks it unless told not to."""

    def __init__(self, addresses: Addresses) -> None:
        self.taken: dict[str, list[object]] = {}
        self.greetings: list[PublisherGreeted] = []
        self.batches = 0
        self.is_marking = True
        self.is_deaf = False
        self._exchanges = Subscriber(bind=[addresses.exchange], topics=[EXCHANGE_TOPIC, HELLO_TOPIC])
        self._marks = Publisher(bind=[addresses.mark])

    async def run(self) -> None:
        async for topic, members in self._exchanges:
            if topic.startswith(HELLO_TOPIC):
                self.greetings.append(decode(PublisherGreeted, members))
            else:
                self.batches += 1
                batch = batch_from(members)
                taken = self.taken.setdefault(batch.epoch, [])
                if not self.is_deaf and batch.first_seq <= len(taken) + 1:
                    taken += batch.records[len(taken) + 1 - batch.first_seq :]
            if self.is_marking and self.greetings:
                held = [each.epoch for each in self.greetings[-1].epochs]
                self.mark({epoch: len(self.taken.get(epoch, [])) for epoch in held})

    def mark(self, marks: dict[str, int]) -> None:
        self._marks.publish(MARK_TOPIC + "mitm-0", CommitMarked(publisher="mitm-0", marks=marks))

    def numbers(self) -> list[object]:
        return [record["n"] for records in self.taken.values() for record in records]  # type: ignore[index]

    def close(self) -> None:
        self._exchanges.close()
        self._marks.close()


@asynccontextmanager
async def running(*works: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(work()) for work in works]  # type: ignore[arg-type]
        yield
        for each in started:
            each.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 what is waited for happens behind a socket
        await asyncio.sleep(0.01)


def finish(publisher: ExchangePublisher, first: int, end: int) -> None:
    for number in range(first, end):
        publisher.finish(None, [b'{"n":%d}' % number])


def publisher_in(directory: Path, notes: Notes | None = None, limits: JournalLimits | None = None) -> ExchangePublisher:
    journal = Journal.open(directory / "journal", "mitm-0", limits=limits)
    return ExchangePublisher(journal, Addresses(directory), notes or Notes())


def test_records_arrive_in_order_in_shared_messages(run_directory: Path) -> None:
    """And what is marked is no longer outstanding."""

    async def story() -> None:
        clerk, publisher = Clerk(Addresses(run_directory)), publisher_in(run_directory)
        finish(publisher, 1, 3)  # before anything runs
        async with running(clerk.run, publisher.run):
            await until(lambda: len(clerk.numbers()) == 2)
            finish(publisher, 3, 2001)
            await until(lambda: len(clerk.numbers()) == 2000)
            await until(lambda: publisher.facts()["unacknowledged"] == 0)
            assert clerk.numbers() == list(range(1, 2001))
            assert publisher.facts()["accountant_heard"]
        await publisher.close()
        clerk.close()
        assert clerk.batches < 200

    uvloop.run(story())


def test_to_a_silent_accountant_only_hellos_are_sent(run_directory: Path) -> None:
    """It would not take anything, and its silence may last for days."""

    async def story() -> None:
        clerk, publisher = Clerk(Addresses(run_directory)), publisher_in(run_directory)
        clerk.is_marking = False
        async with running(clerk.run, publisher.run):
            finish(publisher, 1, 100)
            await until(lambda: len(clerk.greetings) > 5)
            assert clerk.batches == 0
            assert publisher.facts()["unacknowledged"] == 99
            clerk.is_marking = True
            await until(lambda: len(clerk.numbers()) == 99)
        await publisher.close()
        clerk.close()

    uvloop.run(story())


def test_a_full_message_does_not_wait(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for a record more; but for the end of the wake-up, in which the bytes that it is about are forwarded."""
    monkeypatch.setattr(module, "_GATHER_S", 3600.0)

    async def story() -> None:
        clerk, publisher = Clerk(Addresses(run_directory)), publisher_in(run_directory)
        journal, window = publisher._journal, publisher._live.window
        async with running(clerk.run, publisher.run):
            finish(publisher, 1, 2)
            await until(lambda: bool(publisher.facts()["accountant_heard"]) and window.is_settled)
            publisher._send_gathered()  # the next message is an hour away
            finish(publisher, 2, 3)
            journal.is_holding = True
            finish(publisher, 3, 65)
            journal.write_held()
            assert (window.last, window.next) == (64, 2)
            finish(publisher, 65, 66)
            journal.write_held()
            journal.is_holding = False
            assert (window.last, window.next) == (65, 2)
            await until(lambda: window.next == 66)
            await until(lambda: len(clerk.numbers()) == 65)
        await publisher.close()
        clerk.close()

    uvloop.run(story())


def test_what_is_not_taken_is_sent_again(run_directory: Path) -> None:
    """Until the mark moves."""

    async def story() -> None:
        clerk, publisher = Clerk(Addresses(run_directory)), publisher_in(run_directory)
        clerk.is_deaf = True
        async with running(clerk.run, publisher.run):
            finish(publisher, 1, 10)
            await until(lambda: clerk.batches > 3)
            clerk.is_deaf = False
            await until(lambda: len(clerk.numbers()) == 9)
        assert publisher.facts()["resends"] != 0
        await publisher.close()
        clerk.close()

    uvloop.run(story())


def test_a_record_that_is_no_json_does_not_stop_the_stream(run_directory: Path) -> None:
    """It poisons its message; when that is sent again, a stand-in takes its place."""

    async def story() -> None:
        clerk, publisher = Clerk(Addresses(run_directory)), publisher_in(run_directory)
        async with running(clerk.run, publisher.run):
            publisher.finish(None, [b'{"n":1}', b"not JSON", b'{"n":3}'])
            await until(lambda: any(len(records) == 3 for records in clerk.taken.values()))
            finish(publisher, 4, 5)
            await until(lambda: any(len(records) == 4 for records in clerk.taken.values()))
        records = next(iter(clerk.taken.values()))
        assert records[1] == {"schema": "wiremeter.unreadable/1", "bytes": 8}
        await publisher.close()
        clerk.close()

    uvloop.run(story())


def test_an_earlier_life_is_delivered_with_what_it_left_unfinished(run_directory: Path) -> None:
    """Beside the live records, and its folder goes when its time is over."""

    async def story() -> None:
        dead = Journal.open(run_directory / "journal", "mitm-0")
        dead.start("a", b'{"n":8}')
        dead.progress("a", b'{"n":9}')
        dead.finish(None, [b'{"n":%d}' % number for number in range(1, 4)])
        notes = Notes()
        clerk = Clerk(Addresses(run_directory))
        publisher = publisher_in(run_directory, notes, JournalLimits(retained_s=0.0))
        async with running(clerk.run, publisher.run):
            finish(publisher, 20, 22)
            await until(lambda: sorted(clerk.numbers()) == [1, 2, 3, 9, 20, 21])  # type: ignore[type-var]
            await until(lambda: len(list((run_directory / "journal" / "mitm-0").iterdir())) == 1)
            await until(lambda: len(clerk.greetings[-1].epochs) == 1)
        await publisher.close()
        clerk.close()

    uvloop.run(story())


def test_a_restored_ledger_gets_an_epoch_that_was_covered_long_ago(run_directory: Path) -> None:
    """Its journal was not even read at this start; the mark that went backwards makes it so."""

    async def story() -> None:
        addresses = Addresses(run_directory)
        clerk, first = Clerk(addresses), publisher_in(run_directory)
        async with running(clerk.run, first.run):
            finish(first, 1, 6)
            await until(lambda: len(clerk.numbers()) == 5)
            await until(lambda: first.facts()["unacknowledged"] == 0)
        await first.close()
        second = publisher_in(run_directory)
        clerk.taken.clear()
        async with running(clerk.run, second.run):
            await until(lambda: clerk.numbers() == [1, 2, 3, 4, 5])
        await second.close()
        clerk.close()

    uvloop.run(story())


def test_an_accountant_that_comes_back_is_greeted_at_once(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest nothing is repeated that somebody would have to wait for: not for a hello, not for a record."""
    monkeypatch.setattr(module, "_HELLO_AT_REST_S", 3600.0)
    monkeypatch.setattr(module, "_HELLO_IN_SILENCE_S", 3600.0)
    monkeypatch.setattr(module, "_EXPIRE_S", 3600.0)

    async def story() -> None:
        clerk, publisher = Clerk(Addresses(run_directory)), publisher_in(run_directory)
        async with running(publisher.run):
            async with running(clerk.run):
                await until(lambda: publisher._is_resting)
                greeted = len(clerk.greetings)
                finish(publisher, 1, 3)
                await until(lambda: clerk.numbers() == [1, 2])
                await until(lambda: publisher._is_resting)
                assert len(clerk.greetings) > greeted
            clerk.close()
            finish(publisher, 3, 5)
            await until(lambda: not publisher.facts()["accountant_heard"])
            restored = Clerk(Addresses(run_directory))
            async with running(restored.run):
                await until(lambda: restored.numbers() == [1, 2, 3, 4])
            restored.close()
        await publisher.close()

    uvloop.run(story())


def test_closing_waits_for_marks_but_not_for_an_accountant_that_is_away(run_directory: Path) -> None:
    """What was finished in the last moment is committed; alone, closing is quick and the journal keeps everything."""

    async def story() -> None:
        clerk, publisher = Clerk(Addresses(run_directory)), publisher_in(run_directory)
        async with running(clerk.run):
            async with running(publisher.run):
                await until(lambda: bool(publisher.facts()["accountant_heard"]))
            finish(publisher, 1, 30)
            await publisher.close()
            assert len(clerk.numbers()) == 29
        clerk.close()
        alone = publisher_in(run_directory)
        finish(alone, 1, 3)
        async with asyncio.timeout(0.5):
            await alone.close()
        past = [each for each in Journal.open(run_directory / "journal", "mitm-0").past if not each.covered_at_unix_s]
        for each in past:
            each.scan()
        assert [each.last for each in past if not each.is_empty] == [2]

    uvloop.run(story())


def test_trouble_with_the_journal_is_said_once_and_its_end_too(run_directory: Path) -> None:
    """In the log and in health."""

    async def story() -> None:
        notes = Notes()
        clerk = Clerk(Addresses(run_directory))
        (run_directory / "journal").write_text("in the way")
        publisher = publisher_in(run_directory, notes)
        async with running(clerk.run, publisher.run):
            finish(publisher, 1, 3)
            assert not publisher.facts()["recording"]
            assert publisher.facts()["waiting_for_disk"] == 2
            await until(lambda: bool(notes.said))
            (run_directory / "journal").unlink()
            await until(lambda: clerk.numbers() == [1, 2])
            assert publisher.facts()["recording"]
        await publisher.close()
        clerk.close()
        assert [event for event, _ in notes.said] == ["journal.failed", "journal.recovered"]

    uvloop.run(story())


def test_marks_that_are_nonsense_change_nothing(run_directory: Path) -> None:
    """Wrong schemas, other epochs, numbers that nobody has."""

    async def story() -> None:
        addresses = Addresses(run_directory)
        clerk, publisher = Clerk(addresses), publisher_in(run_directory)
        async with running(clerk.run, publisher.run):
            await until(lambda: bool(clerk.greetings))
            clerk._marks.send(MARK_TOPIC + "mitm-0", b'{"schema":"wiremeter.mark/9"}')
            clerk.mark({"f" * 32: 5, clerk.greetings[0].epochs[0].epoch: 10**9})
            finish(publisher, 1, 10)
            await until(lambda: clerk.numbers() == list(range(1, 10)))
        await publisher.close()
        clerk.close()

    uvloop.run(story())


def test_a_publisher_knows_when_it_is_listened_to(run_directory: Path) -> None:
    """What it says from then on is heard, by each newcomer."""
    endpoint = Addresses(run_directory).turn

    async def story() -> None:
        publisher = Publisher(bind=[endpoint], on_subscribed=lambda: publisher.send("turn.1", b'{"n": 1}'))
        async with asyncio.timeout(10):
            for _ in range(2):
                subscriber = Subscriber(connect=[endpoint], topics=["turn."])
                assert await anext(subscriber) == ("turn.1", {"n": 1})
                subscriber.close()
        publisher.close()

    uvloop.run(story())
