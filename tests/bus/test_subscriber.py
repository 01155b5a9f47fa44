"""Subscribers: every message once, nonsense skipped, on both event loops."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
import zmq

from services.bus.addresses import EndpointTaken
from services.bus.publisher import Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import EventInvalid
from tests.support.short_directory import run_directory

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
__all__ = ["run_directory"]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return request.param  # type: ignore[no-any-return]


async def joined(publisher: Publisher, subscriber: Subscriber) -> None:
    """Repeat a greeting until it arrives: a subscription takes its time."""
    while True:
        publisher.send("test.join", b"{}")
        try:
            async with asyncio.timeout(0.02):
                await anext(subscriber)
                break
        except TimeoutError:
            continue
    while True:  # greetings that were under way
        try:
            async with asyncio.timeout(0.1):
                await anext(subscriber)
        except TimeoutError:
            return


def test_messages_arrive_in_order_and_each_wakes_its_reader(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], run_directory: Path
) -> None:
    """One at a time, so that each crosses a sleeping reader: the descriptor tells of changes only."""
    endpoint = f"ipc://{run_directory}/a.ipc"

    async def story() -> None:
        publisher, subscriber = Publisher(bind=[endpoint]), Subscriber(connect=[endpoint], topics=["test."])
        await joined(publisher, subscriber)
        async with asyncio.timeout(20):
            for number in range(300):
                publisher.send("test.one", b'{"n":%d}' % number)
                assert await anext(subscriber) == ("test.one", {"n": number})
        publisher.close()
        subscriber.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(story())


def test_a_burst_is_read_whole_and_others_get_their_turn(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], run_directory: Path
) -> None:
    """A reader of a thousand messages does not stop the process."""
    endpoint = f"ipc://{run_directory}/a.ipc"

    async def story() -> None:
        publisher, subscriber = Publisher(bind=[endpoint]), Subscriber(connect=[endpoint], topics=["test."])
        await joined(publisher, subscriber)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            counting = tasks.create_task(count_turns())
            for number in range(1000):
                publisher.send("test.burst", b'{"n":%d}' % number)
            found = [(await anext(subscriber))[1]["n"] for _ in range(1000)]
            counting.cancel()
        assert found == list(range(1000))
        assert turns > 10
        publisher.close()
        subscriber.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(story())


def test_nonsense_is_skipped_and_counted(run_directory: Path) -> None:
    """Wrong frames, wrong JSON, a topic that is no text."""
    endpoint = f"ipc://{run_directory}/a.ipc"

    async def story() -> None:
        publisher, subscriber = Publisher(bind=[endpoint]), Subscriber(connect=[endpoint], topics=["test."])
        await joined(publisher, subscriber)
        for frames in ([b"test."], [b"test.", b"{}", b"{}"], [b"test.\xff", b"{}"], [b"test.", b"[]"], [b"test.", b""]):
            publisher._socket.send_multipart(frames)
        publisher.send("test.good", b'{"a":1}')
        async with asyncio.timeout(10):
            assert await anext(subscriber) == ("test.good", {"a": 1})
        assert subscriber.malformed == 5
        publisher.close()
        subscriber.close()

    uvloop.run(story())


def test_the_second_frame_is_read_as_its_reader_wants_it(run_directory: Path) -> None:
    """Not always as JSON; what the reader refuses is skipped and counted."""
    endpoint = f"ipc://{run_directory}/a.ipc"

    def size(data: bytes) -> dict[str, object]:
        if not data:
            raise EventInvalid("empty")
        return {"bytes": len(data)}

    async def story() -> None:
        publisher = Publisher(bind=[endpoint])
        subscriber = Subscriber(connect=[endpoint], topics=["test."], read=size)
        await joined(publisher, subscriber)
        async with asyncio.timeout(20):
            publisher.send("test.one", b"")
            publisher.send("test.one", b"no JSON")
            assert await anext(subscriber) == ("test.one", {"bytes": 7})
        assert subscriber.malformed == 1
        publisher.close()
        subscriber.close()

    asyncio.run(story())


def test_cancelling_a_wait_loses_nothing(run_directory: Path) -> None:
    """What arrives later is there for the next who asks."""
    endpoint = f"ipc://{run_directory}/a.ipc"

    async def story() -> None:
        publisher, subscriber = Publisher(bind=[endpoint]), Subscriber(connect=[endpoint], topics=["test."])
        await joined(publisher, subscriber)
        for number in range(50):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await anext(subscriber)
            publisher.send("test.one", b'{"n":%d}' % number)
            async with asyncio.timeout(10):
                assert await anext(subscriber) == ("test.one", {"n": number})
        publisher.close()
        subscriber.close()

    uvloop.run(story())


def test_an_endpoint_that_is_taken_is_named() -> None:
    """For publishers and subscribers alike."""
    first = Publisher(bind=["tcp://127.0.0.1:*"])
    endpoint = first._socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
    for kind in (lambda: Publisher(bind=[endpoint]), lambda: Subscriber(bind=[endpoint], topics=[""])):
        with pytest.raises(EndpointTaken, match=f"^{endpoint} cannot be bound: Address already in use$"):
            kind()
    first.close()
