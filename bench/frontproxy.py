"""
What one piece of an answer costs frontproxy: processor time per delta, from the bus to the client's socket.

frontproxy runs as its own process, as in life; a runner that only pretends floods it with pieces of twenty
characters; the client is a socket that reads and throws away.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, environ_for, processor_s
from services.bus.addresses import LS_STATE_TOPIC, TURN_CANCEL_TOPIC, TURN_REQUEST_TOPIC, TURN_TOPIC, Addresses
from services.bus.publisher import Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import decode
from services.events.lifecycle import LanguageServerState, OfferedModel, ServerState
from services.events.turn import DeltaKind, StopReason, TurnAccepted, TurnDelta, TurnDone, TurnRequested
from tests.support.checkout import PROJECT, free_ports

AT = "2026-11-23T12:00:00.000000Z"
# Faster than any model speaks, slower than what would overrun the socket's high-water mark.
PAUSE_EVERY = 50
PAUSE_S = 0.01


async def state_forever(publisher: Publisher) -> None:
    model = OfferedModel(id="model-a", name="Model A")
    state = LanguageServerState(
        at=AT, state=ServerState.READY, profile="p", label="p", user="u", uid=1, models=(model,), active_turns=1
    )
    while True:
        publisher.publish(LS_STATE_TOPIC, state)
        await asyncio.sleep(0.2)


async def speak(request: TurnRequested, pieces: int, publisher: Publisher) -> None:
    topic, turn_id = TURN_TOPIC + request.turn_id, request.turn_id
    publisher.publish(topic, TurnAccepted(turn_id=turn_id, at=AT, label="p"))
    for number in range(1, pieces + 1):
        delta = TurnDelta(turn_id=turn_id, number=number, kind=DeltaKind.TEXT, text="twenty characters, a")
        publisher.publish(topic, delta)
        if number % PAUSE_EVERY == 0:
            await asyncio.sleep(PAUSE_S)
    publisher.publish(topic, TurnDone(turn_id=turn_id, number=pieces + 1, at=AT, stop_reason=StopReason.END))


async def runner(addresses: Addresses, pieces: int) -> None:
    publisher = Publisher(bind=[addresses.turn])
    requests = Subscriber(bind=[addresses.turn_request], topics=[TURN_REQUEST_TOPIC, TURN_CANCEL_TOPIC])
    seen: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(state_forever(publisher))
        async for topic, members in requests:
            if topic != TURN_REQUEST_TOPIC:
                continue
            request = decode(TurnRequested, members)
            if request.turn_id not in seen:
                seen.add(request.turn_id)
                tasks.create_task(speak(request, pieces, publisher))


async def read_stream(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "model-a", "messages": [{"role": "user", "content": "go"}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    last = b""
    while data := await reader.read(65536):
        last = (last + data)[-200:]
    writer.close()
    return last


async def until_listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def measure(pieces: int, streams: int) -> Iterator[Figure]:
    """Stream so many answers at once, each of so many pieces."""
    count = pieces * streams
    used_s, took_s = asyncio.run(_measured(pieces, streams))
    what = f"frontproxy, delta streamed to a client, {streams} streams"
    yield Figure(quantity=f"{what}: processor time", value=used_s / count * 1e6, unit="µs")
    yield Figure(quantity=f"{what}: per second", value=count / took_s, unit="deltas/s")


async def _measured(pieces: int, streams: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="wm-") as home:
        (port,) = free_ports(1)
        environ = environ_for(Path(home), frontproxy_port=port)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.frontproxy", cwd=PROJECT, env=environ, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until_listening(port)
            async with asyncio.TaskGroup() as tasks:
                pretended = tasks.create_task(runner(Addresses(Path(home) / "run"), pieces))
                await asyncio.sleep(1)  # until the bus is connected: nobody tells
                before_s, began_s = processor_s(process.pid), time.perf_counter()
                ends = await asyncio.gather(*(read_stream(port) for _ in range(streams)))
                used_s, took_s = processor_s(process.pid) - before_s, time.perf_counter() - began_s
                pretended.cancel()
        finally:
            process.terminate()
            await process.wait()
    assert all(b"[DONE]" in end for end in ends), ends
    return used_s, took_s
