"""The bus as frontproxy uses it, with nonsense on it."""

import asyncio

import pytest

from services.bus.addresses import LS_STATE_TOPIC, TURN_TOPIC, USAGE_TOPIC
from services.events.turn import TurnFailed
from tests.support.front import Front, PretendedTurn, eventually, front


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        (LS_STATE_TOPIC, b'{"schema": "wiremeter.ls-state/1", "state": "dreaming"}'),
        (LS_STATE_TOPIC, b"junk"),
        (TURN_TOPIC + "x", b'{"schema": "wiremeter.turn-delta/1", "turn_id": 7}'),
        (TURN_TOPIC + "x", b'{"schema": "wiremeter.turn-delta/9", "turn_id": "%b"}'),
        (TURN_TOPIC + "x", b'{"schema": "wiremeter.turn-delta/1", "turn_id": "%b", "number": "one"}'),
    ],
)
def test_nonsense_on_the_bus_is_skipped(topic: str, message: bytes):
    """Unknown, broken and foreign events neither end the process nor the turn."""

    async def script(turn: PretendedTurn) -> None:
        turn.accept()

    async def story() -> None:
        async with front(script, usage_wait_s=0.05) as subject:
            asking = asyncio.get_running_loop().create_future()

            async def ask() -> None:
                messages = [{"role": "user", "content": "hello"}]
                answer = await subject.client.chat.completions.create(model="model-a", messages=messages)
                asking.set_result(answer.choices[0].message.content)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ask())
                await eventually("the turn begins", lambda: len(subject.runner.turns) == 1)
                turn = subject.runner.turn
                said = message.replace(b"%b", turn.request.turn_id.encode())
                subject.runner.send(topic, said)
                turn.piece("fine")
                turn.done()
                assert await asking == "fine"

    asyncio.run(story())


def test_records_that_are_none_are_skipped():
    """The usage topic is open to every local process that may write to the directory; nonsense on it counts nothing."""

    async def story() -> None:
        async with front(_answer, usage_wait_s=0.05) as subject:
            subject.accountant.send(USAGE_TOPIC + "a.b", b'{"turn_id": ["x"]}')
            messages = [{"role": "user", "content": "hello"}]
            answer = await subject.client.chat.completions.create(model="model-a", messages=messages)
            assert answer.usage is None

    async def _answer(turn: PretendedTurn) -> None:
        turn.accept()
        turn.done()

    asyncio.run(story())


def test_another_runner_on_the_way_out_cannot_end_a_turn_twice():
    """Events of turns that are over find nobody, and that is all."""

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        turn.done()
        turn.done()

    async def story(subject: Front) -> None:
        messages = [{"role": "user", "content": "hello"}]
        for _ in range(2):
            await subject.client.chat.completions.create(model="model-a", messages=messages)
        late = TurnFailed.SCHEMA.encode()
        subject.runner.send(TURN_TOPIC + "x", b'{"schema": "%b", "turn_id": "gone"}' % late)
        assert subject.lines("request.failed") == []

    async def play() -> None:
        async with front(script, usage_wait_s=0.05) as subject:
            await story(subject)

    asyncio.run(play())
