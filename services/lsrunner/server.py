"""
Answers turn requests: from the bus to the queue, from the queue to the language server, from it to the bus.

Here alone it is decided what the asker of a turn is told. Resources: `serve` owns the tasks of the running turns;
when it is cancelled they are too, and their askers are told.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import assert_never

from services.bus.addresses import TURN_CANCEL_TOPIC, TURN_REQUEST_TOPIC
from services.events.codec import Event, EventInvalid, decode
from services.events.turn import (
    DeltaKind,
    FailureKind,
    StopReason,
    TurnAccepted,
    TurnCancelled,
    TurnDelta,
    TurnDone,
    TurnFailed,
    TurnRequested,
)
from services.lsrunner.backend import Backend
from services.lsrunner.profiles import TurnRefused, TurnResult
from services.lsrunner.turns import Accepted, BeginTurn, GiveUp, Order, Refused, TurnQueue, Withdrawn
from services.runtime.logs import Logs

# Publishes one event of one turn.
Publish = Callable[[str, Event], None]


class LiveTurn:
    """A turn that is being answered; fits `profiles.Turn`."""

    def __init__(self, request: TurnRequested, publish: Publish, label: str) -> None:
        self.request = request
        self.given_up: GiveUp | None = None
        self.conversation_id: str | None = None
        self._publish = publish
        self._label = label
        self._number = 0

    def text(self, delta: str) -> None:
        """Publish a piece of the answer."""
        self._delta(DeltaKind.TEXT, delta)

    def thinking(self, delta: str) -> None:
        """Publish a piece of what the model thinks aloud."""
        self._delta(DeltaKind.THINKING, delta)

    def tool(self, title: str) -> None:
        """Publish that a tool is being used."""
        self._delta(DeltaKind.TOOL, title)

    def _delta(self, kind: DeltaKind, text: str) -> None:
        # After the end was decided nothing may follow it; an empty piece says nothing.
        if text and self.given_up is None:
            delta = TurnDelta(turn_id=self.request.turn_id, number=self._next(), kind=kind, text=text)
            self._publish(self.request.turn_id, delta)

    def accepted_conversation(self, conversation_id: str) -> None:
        """Publish the conversation's id, for those who join exchanges to turns by it."""
        self.conversation_id = conversation_id
        self.accept()

    def accept(self) -> None:
        """Publish that it begins."""
        accepted = TurnAccepted(
            turn_id=self.request.turn_id,
            at=now(),
            label=self._label,
            model=self.request.model,
            conversation_id=self.conversation_id,
        )
        self._publish(self.request.turn_id, accepted)

    def done(self, result: TurnResult) -> None:
        """Publish its end."""
        done = TurnDone(
            turn_id=self.request.turn_id,
            number=self._next(),
            at=now(),
            stop_reason=result.stop_reason,
            response_ids=result.response_ids,
            conversation_id=result.conversation_id or self.conversation_id,
        )
        self._publish(self.request.turn_id, done)

    def failed(self, kind: FailureKind, message: str, status: int | None = None) -> None:
        """Publish that it ends without (the rest of) an answer."""
        failed = TurnFailed(
            turn_id=self.request.turn_id, number=self._next(), at=now(), kind=kind, message=message, status=status
        )
        self._publish(self.request.turn_id, failed)

    def _next(self) -> int:
        self._number += 1
        return self._number


def now() -> str:
    """Return the time as events write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class TurnServer:
    """All turns of this runner."""

    def __init__(self, queue: TurnQueue, publish: Publish, logs: Logs) -> None:
        self._queue = queue
        self._publish = publish
        self._logs = logs
        self._live: dict[str, LiveTurn] = {}
        self._tasks: dict[str, asyncio.Task[TurnResult | TurnRefused]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._backend: Backend | None = None
        self._asked = asyncio.Event()

    @property
    def active(self) -> int:
        """Turns that run or wait."""
        return self._queue.active

    async def serve(self, backend: Backend, messages: AsyncIterator[tuple[str, Mapping[str, object]]]) -> None:
        """Take requests until cancelled."""
        self._backend = backend
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._expire())
            async for topic, members in messages:
                self.take(topic, members)

    def take(self, topic: str, members: Mapping[str, object]) -> None:
        """Take one message of frontproxy's."""
        assert self._backend is not None
        try:
            if topic == TURN_REQUEST_TOPIC:
                request = decode(TurnRequested, members)
                server = self._backend.state(self.active)
                self._obey(self._queue.ask(request, server, asyncio.get_running_loop().time()))
                self._asked.set()
            elif topic == TURN_CANCEL_TOPIC:
                cancelled = decode(TurnCancelled, members)
                self._obey(self._queue.cancel(cancelled.turn_id, cancelled.reason))
        except EventInvalid as error:
            # Ours writes no such thing, and whoever does has no turn id to be answered under.
            self._logs.error("message.refused", topic=topic, problem=str(error))
        self.begin_more()

    def lose(self, reason: str) -> None:
        """The language server has gone."""
        self._obey(self._queue.lose(reason))

    def begin_more(self) -> None:
        """Begin what may run now."""
        if self._backend is not None and self._group is not None:
            for begin in self._queue.begin_next(self._backend.turns_at_once):
                self._begin(begin)

    def _obey(self, orders: Sequence[Order]) -> None:
        for order in orders:
            match order:
                case Accepted():
                    self._accept(order)
                case Refused():
                    self._refuse(order)
                case BeginTurn():
                    self._begin(order)
                case GiveUp():
                    self._give_up(order)
                case Withdrawn():
                    done = TurnDone(turn_id=order.turn_id, number=1, at=now(), stop_reason=StopReason.CANCELLED)
                    self._publish(order.turn_id, done)
                case _:
                    assert_never(order)

    def _accept(self, order: Accepted) -> None:
        assert self._backend is not None
        live = self._live.get(order.turn_id)
        if live is not None:
            live.accept()
            return
        self._publish(order.turn_id, TurnAccepted(turn_id=order.turn_id, at=now(), label=self._backend.label))

    def _refuse(self, order: Refused) -> None:
        failed = TurnFailed(turn_id=order.turn_id, number=0, at=now(), kind=order.kind, message=order.message)
        self._publish(order.turn_id, failed)
        self._logs.info("turn.refused", turn=order.turn_id, kind=order.kind)

    def _give_up(self, order: GiveUp) -> None:
        live, task = self._live.get(order.turn_id), self._tasks.get(order.turn_id)
        if live is not None and task is not None and live.given_up is None:
            live.given_up = order
            task.cancel()

    def _begin(self, begin: BeginTurn) -> None:
        assert self._backend is not None and self._group is not None
        request = begin.request
        live = LiveTurn(request, self._publish, self._backend.label)
        # Once more, with the time at which it really begins: while it waited its exchanges were another turn's.
        live.accept()
        self._live[request.turn_id] = live
        task = self._group.create_task(self._answer(live, begin.deadline_at_s))
        self._tasks[request.turn_id] = task
        started_s = asyncio.get_running_loop().time()
        # A callback, because a task that is cancelled before its first step never gets to a `finally` of its own.
        task.add_done_callback(lambda ended: self._end(live, ended, started_s))

    async def _answer(self, live: LiveTurn, deadline_at_s: float) -> TurnResult | TurnRefused:
        """Return the end, refusals too: what a task raises would end its whole group."""
        assert self._backend is not None
        try:
            async with asyncio.timeout_at(deadline_at_s) as limit:
                return await self._backend.answer(live)
        except TimeoutError:
            message = "the turn took longer than its deadline" if limit.expired() else "the language server is silent"
            return TurnRefused(FailureKind.TIMEOUT, message)
        except TurnRefused as refused:
            return refused
        except Exception as error:
            self._logs.error("turn.failed", error=error, turn=live.request.turn_id)
            return TurnRefused(FailureKind.INTERNAL, "internal error")

    def _end(self, live: LiveTurn, task: asyncio.Task[TurnResult | TurnRefused], started_s: float) -> None:
        """Publish how a turn ended, and make room for the next."""
        turn_id = live.request.turn_id
        del self._live[turn_id], self._tasks[turn_id]
        self._queue.finished(turn_id)
        outcome = _outcome_of(live, task)
        if isinstance(outcome, TurnResult):
            live.done(outcome)
        else:
            live.failed(outcome.kind, outcome.message, outcome.status)
        self._logs.info(
            "turn.finished",
            turn=turn_id,
            model=live.request.model,
            ended=outcome.stop_reason if isinstance(outcome, TurnResult) else outcome.kind,
            duration_ms=round((asyncio.get_running_loop().time() - started_s) * 1000),
        )
        self.begin_more()

    async def _expire(self) -> None:
        """Refuse what has waited too long."""
        while True:
            self._asked.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._queue.wake_at_s):
                    await self._asked.wait()
            self._obey(self._queue.expire(asyncio.get_running_loop().time()))


def _outcome_of(live: LiveTurn, task: asyncio.Task[TurnResult | TurnRefused]) -> TurnResult | TurnRefused:
    given_up = live.given_up
    if given_up is not None and given_up.kind is None:
        return TurnResult(stop_reason=StopReason.CANCELLED)
    if given_up is not None and given_up.kind is not None:
        return TurnRefused(given_up.kind, given_up.message)
    if task.cancelled():
        return TurnRefused(FailureKind.INTERNAL, "wiremeter is stopping")
    return task.result()
