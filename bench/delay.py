"""
How long after a provider's last byte the record is on the public topic: provider, mitm, accountant, subscriber.

All are real processes; clocks are one (CLOCK_MONOTONIC). The provider writes into its last event when it sent it. In
between lie the wire, the journal, the bus, the commit with its wait for the disk, and the topic.
"""

import asyncio
import time
from collections.abc import Iterator

import uvloop

from bench.figures import Figure, percentile
from bench.proxied import HOST, Proxied, proxied
from services.bus.addresses import USAGE_TOPIC
from services.bus.subscriber import Subscriber

_ANSWER = "/v1internal:streamGenerateContent?alt=sse&n=3&size=400&every=0.001"
_PAUSE_S = 0.02
_CROWD = 16


def measure(answers: int) -> Iterator[Figure]:
    """Ask one after the other, then by many at once."""
    with proxied(accountant=True) as system:
        alone = uvloop.run(_delays_ms(system, answers, 1, _PAUSE_S))
        crowd = uvloop.run(_delays_ms(system, answers, _CROWD, 0.0))
    what = "last byte of the provider to the topic"
    yield Figure(quantity=f"{what}, p50", value=percentile(alone, 50), unit="ms", at_most=5)
    yield Figure(quantity=f"{what}, p99", value=percentile(alone, 99), unit="ms", at_most=20)
    yield Figure(quantity=f"{what}, {_CROWD} at once, p50", value=percentile(crowd, 50), unit="ms")
    yield Figure(quantity=f"{what}, {_CROWD} at once, p99", value=percentile(crowd, 99), unit="ms")


async def _delays_ms(system: Proxied, answers: int, clients: int, pause_s: float) -> list[float]:
    subscriber = Subscriber(connect=[system.usage_endpoint], topics=[USAGE_TOPIC])
    found: dict[str, float] = {}

    async def hear() -> None:
        async for _, members in subscriber:
            said = str(members["response_id"])
            found[said] = (time.monotonic_ns() - int(said)) / 1e6

    async def ask() -> None:
        async with system.client(HOST) as client:
            for _ in range(answers // clients):
                await client.ask(_ANSWER)
                await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as tasks:
        hearing = tasks.create_task(hear())
        async with system.client(HOST) as client:
            while not found:  # until the subscription has arrived: nobody tells
                await client.ask(_ANSWER)
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
        found.clear()
        await asyncio.gather(*(ask() for _ in range(clients)))
        async with asyncio.timeout(10):
            while len(found) < answers // clients * clients:  # noqa: ASYNC110 told by another process
                await asyncio.sleep(0.01)
        hearing.cancel()
    subscriber.close()
    return list(found.values())
