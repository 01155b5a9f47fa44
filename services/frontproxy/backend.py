"""
The language server as frontproxy reaches it: turns go out on the bus, their events and their usage come back.

Resources: three SUB sockets and one PUB, opened by `Backend(...)`, closed by `close`; `run` hears until it is
cancelled. A turn lives as long as its `with` block; leaving the block while the runner is still at work, also by
cancellation, tells the runner to stop. Sending never waits.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TypeAlias

from services.bus.addresses import (
    HEALTH_TOPIC,
    LS_STATE_TOPIC,
    TURN_CANCEL_TOPIC,
    TURN_REQUEST_TOPIC,
    TURN_TOPIC,
    USAGE_TOPIC,
    Addresses,
)
from services.bus.publisher import Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import EventInvalid, decode, encode
from services.events.exchange import UsageRecorded
from services.events.lifecycle import LanguageServerState, ProcessBeat
from services.events.turn import TurnAccepted, TurnCancelled, TurnDelta, TurnDone, TurnFailed, TurnRequested
from services.frontproxy.health import HealthReport, HealthView
from services.frontproxy.joining import TurnUsage, UsageJoin
from services.frontproxy.turns import ACCEPT_TIMEOUT_S, Turn

_RUNNER: Final = "lsrunner"
# When the process stops, the sockets get this long to tell the runner which turns nobody waits for any more.
_FAREWELL_S: Final = 0.1
_TURN_EVENTS: Final[Mapping[object, type[TurnAccepted] | type[TurnDelta] | type[TurnDone] | type[TurnFailed]]] = {
    kind.SCHEMA: kind for kind in (TurnAccepted, TurnDelta, TurnDone, TurnFailed)
}
_Members: TypeAlias = dict[str, object]


class TurnSession:
    """
    A turn under way, for one task.

    Attributes:
        turn: What has become of it so far.
        join: The usage of it that has been heard.
        changed: Set when either has changed.
    """

    def __init__(self, backend: "Backend", turn: Turn, join: UsageJoin) -> None:
        self.turn = turn
        self.join = join
        self.changed = asyncio.Event()
        self._backend = backend
        self._request = encode(turn.request)
        self._loop = asyncio.get_running_loop()

    @property
    def is_over(self) -> bool:
        """Has everything that will come been taken?"""
        return self.turn.is_over and not self.turn.has_pieces

    async def next(self) -> list[TurnDelta]:
        """Wait for more of the answer; an empty list means that it is over."""
        while True:
            now_s, heard_at_s = self._loop.time(), self._backend.runner_heard_at_s
            if self.turn.wake(now_s, heard_at_s):
                self._backend.request(self._request)
            deltas = self.turn.take()
            if deltas or self.turn.is_over:
                return deltas
            await self._wait(self.turn.wake_at_s(now_s, heard_at_s))

    async def usage(self) -> TurnUsage:
        """Wait, with a limit, for the usage of a turn that is done."""
        assert self.turn.done is not None, "usage is asked for when the turn is done"
        self.join.end(self.turn.done.response_ids, self._loop.time())
        while not self.join.is_settled(self._loop.time()):
            await self._wait(self.join.wake_at_s())
        return self.join.usage()

    def wake_if_over(self) -> None:
        """Let the task that waits learn that the turn is over."""
        if self.turn.is_over:
            self.changed.set()

    async def _wait(self, until_s: float) -> None:
        self.changed.clear()
        try:
            async with asyncio.timeout_at(until_s):
                await self.changed.wait()
        except TimeoutError:
            pass


class Backend:
    """
    Everything that frontproxy hears and says on the bus.

    Raises:
        EndpointTaken: The socket for heartbeats cannot be bound.
    """

    def __init__(self, addresses: Addresses, *, usage_wait_s: float) -> None:
        self._usage_wait_s = usage_wait_s
        self._loop = asyncio.get_running_loop()
        self._health = HealthView()
        self._state_heard = asyncio.Event()
        self._sessions: dict[str, TurnSession] = {}
        self.runner_heard_at_s = float("-inf")
        self._runner_started_at: str | None = None
        self._beats = Subscriber(bind=[addresses.health], topics=[HEALTH_TOPIC])
        self._turns = Subscriber(connect=[addresses.turn], topics=[TURN_TOPIC, LS_STATE_TOPIC])
        self._usage = Subscriber(connect=[addresses.usage], topics=[USAGE_TOPIC])
        self._requests = Publisher(connect=[addresses.turn_request])

    # -- what the server asks -------------------------------------------------------------------------------------

    @property
    def language_server(self) -> LanguageServerState | None:
        """The last state that was heard."""
        return self._health.language_server

    @property
    def turns_active(self) -> int:
        """Turns under way."""
        return len(self._sessions)

    async def language_server_heard(self) -> LanguageServerState | None:
        """Wait a moment for the first word of the runner; None if it stays silent."""
        try:
            async with asyncio.timeout(ACCEPT_TIMEOUT_S):
                await self._state_heard.wait()
        except TimeoutError:
            pass
        return self.language_server

    def health_report(self) -> HealthReport:
        """Tell how everything is."""
        return self._health.report(self._loop.time())

    @contextmanager
    def turn(self, request: TurnRequested) -> Iterator[TurnSession]:
        """Carry one turn; it ends with the block."""
        turn = Turn(request, now_s=self._loop.time(), requested_at=datetime.now(UTC))
        session = self._sessions[request.turn_id] = TurnSession(self, turn, UsageJoin(wait_s=self._usage_wait_s))
        try:
            yield session
        finally:
            del self._sessions[request.turn_id]
            turn.give_up("the client has gone")
            if turn.cancel_reason is not None:
                cancelled = TurnCancelled(turn_id=request.turn_id, reason=turn.cancel_reason)
                self._requests.publish(TURN_CANCEL_TOPIC, cancelled)

    def request(self, request: bytes) -> None:
        """Send a turn request, already encoded."""
        self._requests.send(TURN_REQUEST_TOPIC, request)

    # -- what comes from the bus ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Hear until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear_turns())
            tasks.create_task(self._hear_usage())
            tasks.create_task(self._hear_beats())

    async def close(self) -> None:
        """Close the sockets, after a moment for what was said last."""
        await asyncio.sleep(_FAREWELL_S)
        self._requests.close()
        for subscriber in (self._beats, self._turns, self._usage):
            subscriber.close()

    @property
    def malformed(self) -> int:
        """Messages that were skipped because they could not be read."""
        return self._beats.malformed + self._turns.malformed + self._usage.malformed

    async def _hear_turns(self) -> None:
        async for topic, members in self._turns:
            try:
                if topic == LS_STATE_TOPIC:
                    self._take_state(decode(LanguageServerState, members))
                else:
                    self._take_turn_event(members)
            except EventInvalid:
                self._turns.malformed += 1

    def _take_state(self, state: LanguageServerState) -> None:
        self.runner_heard_at_s = self._loop.time()
        self._health.hear_state(state, self.runner_heard_at_s)
        self._state_heard.set()
        if state.active_turns == 0:
            for session in self._sessions.values():
                session.turn.runner_idle()
                session.wake_if_over()

    def _take_turn_event(self, members: _Members) -> None:
        self.runner_heard_at_s = self._loop.time()
        session = self._session_of(members)
        kind = _TURN_EVENTS.get(members.get("schema"))
        if session is not None and kind is not None:
            session.turn.feed(decode(kind, members))
            session.changed.set()

    async def _hear_usage(self) -> None:
        async for _, members in self._usage:
            # Most records are of no turn of ours; only ours are read in full.
            session = self._session_of(members)
            if session is None:
                continue
            try:
                session.join.feed(decode(UsageRecorded, members), self._loop.time())
            except EventInvalid:
                self._usage.malformed += 1
            session.changed.set()

    async def _hear_beats(self) -> None:
        async for _, members in self._beats:
            try:
                beat = decode(ProcessBeat, members)
            except EventInvalid:
                self._beats.malformed += 1
                continue
            self._health.hear_beat(beat, self._loop.time())
            if beat.process == _RUNNER:
                self._take_runner_start(beat.started_at)

    def _take_runner_start(self, started_at: str) -> None:
        if started_at != self._runner_started_at:
            # What we heard until now was another runner; this one has yet to be heard where turns are heard.
            self._runner_started_at = started_at
            self.runner_heard_at_s = float("-inf")
        for session in self._sessions.values():
            session.turn.runner_started(started_at)
            session.wake_if_over()

    def _session_of(self, members: _Members) -> TurnSession | None:
        turn_id = members.get("turn_id")
        return self._sessions.get(turn_id) if isinstance(turn_id, str) else None
