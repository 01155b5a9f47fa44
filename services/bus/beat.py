"""Heartbeats: once a second every process says that it lives, what it misses, and a few numbers worth seeing."""

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from services.bus.addresses import HEALTH_TOPIC, Addresses
from services.bus.publisher import Publisher
from services.events.lifecycle import Missing, ProcessBeat

BEAT_S = 1.0
# The first beats follow each other faster: while everything starts, the first of them find nobody who listens yet.
_FIRST_BEAT_S = 0.05
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
        publisher = Publisher(connect=[self._endpoint])
        pause_s = _FIRST_BEAT_S
        try:
            while True:
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
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, BEAT_S)
        finally:
            publisher.close()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
