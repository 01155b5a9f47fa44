"""Heartbeats."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from services.bus import beat as module
from services.bus.addresses import HEALTH_TOPIC, Addresses
from services.bus.beat import Beat
from services.bus.subscriber import Subscriber
from services.events.codec import decode
from services.events.lifecycle import Missing, ProcessBeat
from tests.support.short_directory import run_directory

__all__ = ["run_directory"]


def test_a_process_says_that_it_lives_and_what_it_misses(run_directory: Path) -> None:
    """Again and again, each time asking anew."""
    addresses = Addresses(run_directory)
    asked = 0

    def facts() -> tuple[tuple[Missing, ...], dict[str, object]]:
        nonlocal asked
        asked += 1
        return (Missing(what="ledger", detail="not open"),), {"asked": asked}

    async def story() -> list[ProcessBeat]:
        subscriber = Subscriber(bind=[addresses.health], topics=[HEALTH_TOPIC])
        beat = Beat(addresses, "mitm-0", "0.1.0", facts)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(beat.run())
            heard = [await anext(subscriber) for _ in range(2)]
            running.cancel()
        subscriber.close()
        assert {topic for topic, _ in heard} == {"health.mitm-0"}
        return [decode(ProcessBeat, members) for _, members in heard]

    first, second = uvloop.run(story())
    assert (first.process, first.version, first.missing[0].what) == ("mitm-0", "0.1.0", "ledger")
    assert first.started_at == second.started_at < second.at
    assert second.facts["asked"] == first.facts["asked"] + 1  # type: ignore[operator]


def test_whoever_begins_to_listen_hears_at_once(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also who was away and came back; nobody waits for the next beat."""
    monkeypatch.setattr(module, "BEAT_S", 3600.0)
    addresses = Addresses(run_directory)

    async def story() -> None:
        beat = Beat(addresses, "mitm-0", "0.1.0", lambda: ((), {}))
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(beat.run())
            for _ in range(2):
                subscriber = Subscriber(bind=[addresses.health], topics=[HEALTH_TOPIC])
                await anext(subscriber)
                subscriber.close()
            running.cancel()

    uvloop.run(story())
