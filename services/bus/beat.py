"""
Heartbeats: a process says that it lives, what it misses, and a few numbers worth seeing.

Once a second, and at once to everybody who begins to listen.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from services.bus.addresses import HEALTH_TOPIC, Addresses
from services.bus.publisher import Publisher
from services.bus.rhythm import pause_s
from services.events.lifecycle import Missing, ProcessBeat

BEAT_S = 1.0
Facts = Callable[[], tuple[tuple[Missing, ...], Mapping[str, object]]]


class Beat:
    """
    The heartbeat of one process.

    Args:
        facts: Asked at each beat: what is missing, and the numbers.
    """

    def __init__(self, addresses: Addresses, process_name: str, version: str, facts: Facts) -> None:
        self._endpoint = addresses.health
        self._process = process_name
        self._version = version
        self._facts = facts
        self._started_at = _now()

    async def run(self) -> None:
        """Beat until cancelled."""
        listened = asyncio.Event()
        publisher = Publisher(connect=[self._endpoint], on_subscribed=listened.set)
        try:
            while True:
                listened.clear()
                missing, facts = self._facts()
                beat = ProcessBeat(
                    process=self._process,
                    pid=os.getpid(),
                    version=self._version,
                    at=_now(),
                    started_at=self._started_at,
                    missing=missing,
                    facts=facts,
                )
                publisher.publish(HEALTH_TOPIC + self._process, beat)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s(asyncio.get_running_loop().time(), BEAT_S)):
                        await listened.wait()
        finally:
            publisher.close()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
