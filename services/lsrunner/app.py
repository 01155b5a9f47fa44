"""Opens the parts of the runner in order, joins them, and closes them in reverse."""

import asyncio
from collections.abc import Mapping

from services.bus.addresses import LS_STATE_TOPIC, TURN_CANCEL_TOPIC, TURN_REQUEST_TOPIC, TURN_TOPIC, Addresses
from services.bus.beat import BEAT_S, Beat
from services.bus.publisher import Publisher
from services.bus.rhythm import pause_s
from services.bus.subscriber import Subscriber
from services.events.codec import Event
from services.events.lifecycle import Missing
from services.lsrunner.backend import Backend
from services.lsrunner.choice import builder_of, choose
from services.lsrunner.config import LsrunnerConfig
from services.lsrunner.server import TurnServer
from services.lsrunner.turns import TurnQueue
from services.lsrunner.upstream import SimulatedProvider
from services.runtime.run import VERSION, Process

# A burst of deltas must fit: a subscriber that is busy for a moment would lose its turn.
_SEND_HIGH_WATER_MARK = 100_000
# How long the last words (why turns fail) may take to leave.
_LINGER_MS = 500


async def lsrunner(process: Process, environ: Mapping[str, str]) -> None:
    """Run one language server until the process is asked to stop."""
    config = LsrunnerConfig.build(process.settings, process.state)
    profile = choose(config.language_server, environ)
    if config.language_server.profile == "auto":
        process.logs.warning("profile.chosen", profile=profile, asked="auto")
    runner = Runner(process, config, profile, environ)
    await runner.run(process.stopping)


class Runner:
    """The parts and what joins them."""

    def __init__(self, process: Process, config: LsrunnerConfig, profile: str, environ: Mapping[str, str]) -> None:
        self._process = process
        self._config = config
        self._profile = profile
        self._addresses = Addresses(config.run)
        limits = config.language_server
        self._publisher = Publisher(
            bind=[self._addresses.turn],
            high_water_mark=_SEND_HIGH_WATER_MARK,
            linger_ms=_LINGER_MS,
            on_subscribed=self._publish_state,
        )
        self._server = TurnServer(TurnQueue(limits.queue_max, limits.turn_timeout_s), self._publish_turn, process.logs)
        self._backend = Backend(
            config,
            profile=profile,
            build=builder_of(profile),
            environ=environ,
            logs=process.logs,
            on_change=self._on_change,
            on_loss=self._server.lose,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set; the language server is ended before this returns."""
        try:
            async with asyncio.TaskGroup() as group:
                around = [
                    group.create_task(self._repeat_state()),
                    group.create_task(self._beat().run()),
                    group.create_task(self._take_requests()),
                ]
                if self._profile == "simulated":
                    around.append(group.create_task(self._serve_simulated_provider()))
                await self._backend.run(stopping)
                for task in around:
                    task.cancel()
        finally:
            self._publisher.close()

    async def _serve_simulated_provider(self) -> None:
        config = self._config
        await SimulatedProvider(config.simulator_port, config.simulator_certificate, self._process.logs).serve()

    async def _take_requests(self) -> None:
        subscriber = Subscriber(bind=[self._addresses.turn_request], topics=[TURN_REQUEST_TOPIC, TURN_CANCEL_TOPIC])
        try:
            await self._server.serve(self._backend, subscriber)
        finally:
            subscriber.close()

    async def _repeat_state(self) -> None:
        while True:
            self._publish_state()
            await asyncio.sleep(pause_s(asyncio.get_running_loop().time(), BEAT_S))

    def _on_change(self) -> None:
        self._publish_state()
        self._server.begin_more()

    def _publish_state(self) -> None:
        self._publisher.publish(LS_STATE_TOPIC, self._backend.state(self._server.active))

    def _publish_turn(self, turn_id: str, event: Event) -> None:
        self._publisher.publish(TURN_TOPIC + turn_id, event)

    def _beat(self) -> Beat:
        return Beat(self._addresses, self._process.name, VERSION, self._facts)

    def _facts(self) -> tuple[tuple[Missing, ...], Mapping[str, object]]:
        return self._backend.missing(), {**self._backend.facts(), "turns": self._server.active}
