"""Readiness reaches handlers, and descriptors that are closed do not."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import uvloop

from services.mitm.poller import BROKEN, READ, WRITE, Poller
from services.runtime.logs import Logs
from tests.support.log_lines import LogLines

LINES = LogLines()


def polled(story: Callable[[Poller], Awaitable[None]]) -> None:
    """Run a story with a poller on a real event loop."""

    async def run() -> None:
        poller = Poller(asyncio.get_running_loop(), Logs("test", sink=LINES))
        try:
            await asyncio.wait_for(story(poller), 10)
        finally:
            poller.close()

    uvloop.run(run())


def ignore() -> None:
    return


def test_a_handler_is_called_while_there_is_something() -> None:
    """Level-triggered: what was not read is told again."""

    async def story(poller: Poller) -> None:
        near, far = socket.socketpair()
        done = asyncio.Event()
        seen: list[tuple[int, bytes]] = []

        def handle(events: int) -> None:
            seen.append((events, near.recv(1)))
            if len(seen) == 3:
                done.set()

        with near, far:
            poller.watch(near.fileno(), handle, fail=ignore)
            far.sendall(b"abc")
            await done.wait()
            poller.forget(near.fileno())
        assert seen == [(READ, b"a"), (READ, b"b"), (READ, b"c")]

    polled(story)


def test_what_is_waited_for_can_be_changed() -> None:
    """An error is told whatever was asked for."""

    async def story(poller: Poller) -> None:
        near, far = socket.socketpair()
        told: asyncio.Queue[int] = asyncio.Queue()

        def handle(events: int) -> None:
            told.put_nowait(events)
            poller.change(near.fileno(), 0)

        with near:
            with far:
                poller.watch(near.fileno(), handle, WRITE, fail=ignore)
                assert await told.get() == WRITE
                far.sendall(b"x")
                assert told.empty()
            assert (await told.get()) & BROKEN
            poller.forget(near.fileno())

    polled(story)


def test_the_kernel_forgets_a_socket_that_was_closed() -> None:
    """Whoever gets its number can be watched, and hears of nothing that was there before."""

    async def story(poller: Poller) -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        near, far = socket.socketpair()
        number = near.fileno()
        with far:
            poller.watch(number, lambda _: told.put_nowait("old"), fail=ignore)
            far.sendall(b"x")
            poller.close_socket(near)
            await asyncio.sleep(0)
            assert near.fileno() == -1
        ends = socket.socketpair()
        with ends[0], ends[1]:
            [other] = [end for end in ends if end.fileno() != number]
            poller.watch(number, lambda _: told.put_nowait("new"), fail=ignore)
            other.sendall(b"x")
            assert await told.get() == "new"
            poller.forget(number)

    polled(story)


def test_a_socket_that_was_closed_in_a_wake_up_is_not_called_in_it() -> None:
    """Nor is whoever gets its number next: the number is free only at the end of the wake-up."""

    async def story(poller: Poller) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        called: list[int] = []
        done = asyncio.Event()
        numbers = {near.fileno() for near, _ in pairs}

        def handler(n: int) -> Callable[[int], None]:
            def handle(events: int) -> None:
                called.append(n)
                done.set()
                for near, _ in pairs:
                    poller.close_socket(near)
                fresh = os.open("/dev/null", os.O_RDONLY)
                assert fresh not in numbers
                os.close(fresh)

            return handle

        for n, (near, far) in enumerate(pairs):
            poller.watch(near.fileno(), handler(n), fail=ignore)
            far.sendall(b"x")
        await done.wait()
        assert len(called) == 1
        assert all(near.fileno() == -1 for near, _ in pairs)
        for _, far in pairs:
            far.close()

    polled(story)


def test_a_handler_that_fails_is_logged_and_its_owner_told() -> None:
    """The others of the same wake-up are served."""

    async def story(poller: Poller) -> None:
        pairs = [socket.socketpair() for _ in range(3)]
        served: list[int] = []
        failed: list[int] = []
        done = asyncio.Event()

        def handler(n: int) -> Callable[[int], None]:
            def handle(events: int) -> None:
                if n == 1:
                    raise RuntimeError("a bug")
                served.append(n)
                pairs[n][0].recv(1)
                told()

            return handle

        def fail() -> None:
            failed.append(1)
            poller.close_socket(pairs[1][0])
            told()

        def told() -> None:
            if len(served) + len(failed) == 3:
                done.set()

        for n, (near, far) in enumerate(pairs):
            poller.watch(near.fileno(), handler(n), fail=fail)
            far.sendall(b"x")
        await done.wait()
        assert sorted(served) == [0, 2] and failed == [1]
        for n in (0, 2):
            poller.forget(pairs[n][0].fileno())
            pairs[n][0].close()
        for _, far in pairs:
            far.close()

    polled(story)
    [line] = [line for line in LINES.lines if line["event"] == "handler.failed"]
    assert line["error"] == "RuntimeError: a bug" and "Traceback" in str(line["traceback"])


def test_time_is_read_once_per_wake_up() -> None:
    """`now` is monotonic."""

    async def story(poller: Poller) -> None:
        before = poller.now
        near, far = socket.socketpair()
        done = asyncio.Event()
        with near, far:
            poller.watch(near.fileno(), lambda _: done.set() or poller.forget(near.fileno()), fail=ignore)
            far.sendall(b"x")
            await done.wait()
        assert poller.now >= before

    polled(story)
