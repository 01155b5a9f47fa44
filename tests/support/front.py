"""
A frontproxy of the test's own, in the test's event loop, with a runner, an accountant and a mitm that only pretend.

The bus between them is the real one, so is the HTTP. What the language server does is a coroutine of the test's.
"""

import asyncio
import dataclasses
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from services.bus.addresses import (
    HEALTH_TOPIC,
    LS_STATE_TOPIC,
    TURN_CANCEL_TOPIC,
    TURN_REQUEST_TOPIC,
    TURN_TOPIC,
    Addresses,
    usage_topic,
)
from services.bus.publisher import Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import Event, decode
from services.events.exchange import Timing, UsageRecorded
from services.events.lifecycle import LanguageServerState, OfferedModel, ProcessBeat, ServerState
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
from services.events.usage import Outcome
from services.frontproxy.app import frontproxy
from services.runtime.logs import Logs
from services.runtime.run import Process
from services.runtime.settings import FrontproxySettings, LsrunnerSettings, Settings
from services.runtime.state import StateDirectory
from tests.support.checkout import free_ports

STATE = LanguageServerState(
    at="2026-11-23T12:00:00Z",
    state=ServerState.READY,
    profile="simulated",
    label="simulated",
    user="me",
    uid=1000,
    models=(OfferedModel(id="model-a", name="Model A"), OfferedModel(id="model-b", name="Model B")),
)
# Oftener than in life: the tests wait for it.
_EVERY_S = 0.05
_numbers = itertools.count(1)


def now() -> str:
    """Return the time as events write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def beat(addresses: Addresses, name: str) -> None:
    """Say that a process lives, until cancelled."""
    started_at = now()
    publisher = Publisher(connect=[addresses.health])
    try:
        while True:
            said = ProcessBeat(process=name, pid=1, version="0", at=now(), started_at=started_at)
            publisher.publish(HEALTH_TOPIC + name, said)
            await asyncio.sleep(_EVERY_S)
    finally:
        publisher.close()


async def eventually(what: str, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition in the event loop; fail with `what` after the time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        if loop.time() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        await asyncio.sleep(0.01)


class PretendedTurn:
    """A turn in the hands of the test."""

    def __init__(self, request: TurnRequested, publish: Callable[[str, Event], None]) -> None:
        self.request = request
        self.number = 0
        self.is_over = False
        self.cancelled = asyncio.Event()
        self._publish = publish

    def accept(self) -> None:
        """Say that it begins."""
        self._say(TurnAccepted(turn_id=self.request.turn_id, at=now(), label="simulated"))

    def piece(self, text: str, kind: DeltaKind = DeltaKind.TEXT) -> None:
        """Say a piece of the answer."""
        self.number += 1
        self._say(TurnDelta(turn_id=self.request.turn_id, number=self.number, kind=kind, text=text))

    def lose(self) -> None:
        """Pretend that a piece was said."""
        self.number += 1

    def done(self, *response_ids: str, stop_reason: StopReason = StopReason.END) -> None:
        """Say that it is complete."""
        self.is_over = True
        self.number += 1
        self._say(
            TurnDone(
                turn_id=self.request.turn_id,
                number=self.number,
                at=now(),
                stop_reason=stop_reason,
                response_ids=response_ids,
            )
        )

    def fail(self, kind: FailureKind, message: str, status: int | None = None) -> None:
        """Say that it failed."""
        self.is_over = True
        number = self.number + 1 if self.number else 0
        self._say(
            TurnFailed(turn_id=self.request.turn_id, number=number, at=now(), kind=kind, message=message, status=status)
        )

    def _say(self, event: Event) -> None:
        self._publish(self.request.turn_id, event)


Script = Callable[[PretendedTurn], Awaitable[None]]


class PretendedRunner:
    """
    Speaks for lsrunner.

    Attributes:
        script: What it does with each turn.
        state: What it says of the language server.
        turns: The turns that it was asked for, by id.
        cancelled: The cancellations that it heard, by turn.
        requests: How often it was asked, repetitions included.
        accepts_again: Whether it answers repetitions.
        send: Puts any bytes on the bus.
    """

    def __init__(self, addresses: Addresses, script: Script) -> None:
        self.script = script
        self.state: LanguageServerState | None = STATE
        self.turns: dict[str, PretendedTurn] = {}
        self.cancelled: dict[str, str] = {}
        self.requests = 0
        self.accepts_again = True
        self.send: Callable[[str, bytes], None] = lambda topic, message: None
        self._addresses = addresses

    @property
    def turn(self) -> PretendedTurn:
        """The only turn."""
        (turn,) = self.turns.values()
        return turn

    async def run(self) -> None:
        """Play until cancelled."""
        publisher = Publisher(bind=[self._addresses.turn])
        self.send = publisher.send
        requests = Subscriber(bind=[self._addresses.turn_request], topics=[TURN_REQUEST_TOPIC, TURN_CANCEL_TOPIC])
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._repeat_state(publisher))
                tasks.create_task(beat(self._addresses, "lsrunner"))
                async for topic, members in requests:
                    self._take(topic, members, publisher, tasks)
        finally:
            publisher.close()
            requests.close()

    def _take(self, topic: str, members: Mapping[str, object], publisher: Publisher, tasks: asyncio.TaskGroup) -> None:
        if topic == TURN_CANCEL_TOPIC:
            cancelled = decode(TurnCancelled, members)
            self.cancelled[cancelled.turn_id] = cancelled.reason
            if cancelled.turn_id in self.turns:
                self.turns[cancelled.turn_id].cancelled.set()
            return
        self.requests += 1
        request = decode(TurnRequested, members)
        if request.turn_id in self.turns:
            if self.accepts_again:
                self.turns[request.turn_id].accept()
        else:
            turn = PretendedTurn(request, lambda turn_id, event: publisher.publish(TURN_TOPIC + turn_id, event))
            self.turns[request.turn_id] = turn

            async def play() -> None:
                await self.script(turn)

            tasks.create_task(play())

    async def _repeat_state(self, publisher: Publisher) -> None:
        while True:
            if self.state is not None:
                active = sum(not turn.is_over for turn in self.turns.values())
                publisher.publish(LS_STATE_TOPIC, dataclasses.replace(self.state, at=now(), active_turns=active))
            await asyncio.sleep(_EVERY_S)


class PretendedAccountant:
    """Speaks for the accountant: publishes records as if they were committed."""

    def __init__(self, addresses: Addresses) -> None:
        self._publisher = Publisher(bind=[addresses.usage])
        self.send = self._publisher.send

    def publish(self, turn_id: str | None, **members: Any) -> UsageRecorded:
        """Publish a record of a turn."""
        number = next(_numbers)
        record = UsageRecorded(
            **{
                "event_id": f"event-{number}",
                "at": now(),
                "exchange_id": f"exchange-{number}",
                "provider": "gcp.gen_ai",
                "dialect": "google-cloudcode",
                "operation": "generate_content",
                "host": "simulated.wiremeter.invalid",
                "model": "gemini",
                "outcome": Outcome.OK,
                "usage": {"input_tokens": 10, "output_tokens": 3},
                "timing": Timing(started_at=now()),
                "turn_id": turn_id,
            }
            | members
        )
        self._publisher.publish(usage_topic(record.provider, record.model), record)
        return record

    def close(self) -> None:
        """Close the socket."""
        self._publisher.close()


class Front:
    """
    A running frontproxy and what surrounds it.

    Attributes:
        client: The official SDK; it does not repeat what failed.
    """

    def __init__(self, port: int, state: StateDirectory, script: Script) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.state = state
        self.addresses = Addresses(state.run)
        self.runner = PretendedRunner(self.addresses, script)
        self.accountant = PretendedAccountant(self.addresses)
        self.client = AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="unused", admin_api_key="unused", max_retries=0, timeout=30
        )
        self.http = aiohttp.ClientSession(self.url)
        self.log = io.BytesIO()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [line for text in self.log.getvalue().splitlines() if (line := json.loads(text))["event"] == event]

    async def until_heard(self) -> None:
        """Wait until frontproxy hears the bus: what was said before is lost."""
        async with asyncio.timeout(10):
            while True:
                async with self.http.get("/health") as response:
                    report = await response.json()
                names = {each["name"] for each in report["processes"]}
                if report["language_server"] and {"lsrunner", "accountant", "mitm-0"} <= names:
                    return
                await asyncio.sleep(0.02)


async def nothing(turn: PretendedTurn) -> None:
    """Leave the turn to the test."""


@asynccontextmanager
async def front(script: Script = nothing, *, hears_runner: bool = True, **settings: Any) -> AsyncIterator[Front]:
    """
    Run frontproxy.

    Args:
        script: What the language server does with each turn.
        hears_runner: Start the runner, and wait until it is heard.
        settings: More `FrontproxySettings`; `lsrunner` has `LsrunnerSettings`.
    """
    # Not pytest's directory: a socket's path has at most 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="wm-"))
    state = StateDirectory(home=home)
    state.make()
    (port,) = free_ports(1)
    lsrunner = settings.pop("lsrunner", LsrunnerSettings())
    subject = Front(port, state, script)
    process = Process(
        name="frontproxy",
        settings=Settings(frontproxy=FrontproxySettings(port=port, **settings), lsrunner=lsrunner),
        state=state,
        logs=Logs("frontproxy", sink=subject.log),
        stopping=asyncio.Event(),
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(frontproxy(process))
            others = [tasks.create_task(beat(subject.addresses, name)) for name in ("mitm-0", "accountant")]
            await eventually("frontproxy listens", lambda: bool(subject.lines("listener.opened")) or serving.done())
            if hears_runner:
                others.append(tasks.create_task(subject.runner.run()))
                await subject.until_heard()
            try:
                yield subject
            finally:
                await subject.client.close()
                await subject.http.close()
                process.stopping.set()
                await serving
                for line in subject.lines("request.failed"):
                    print(line["traceback"])
                for task in others:
                    task.cancel()
    finally:
        subject.accountant.close()
        shutil.rmtree(home)
