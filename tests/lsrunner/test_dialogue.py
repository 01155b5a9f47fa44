"""Turns of the antigravity profile, on a fake hub written in Go and a stand-in of the provider, all real processes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from services.events.turn import DeltaKind, FailureKind, StopReason
from services.lsrunner.profiles import TurnRefused
from tests.support.antigravity import Hub, RecordedTurn, hub
from tests.support.provider import Provider, provider

pytestmark = pytest.mark.go


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


def run(
    folder: Path,
    stand_in: Provider,
    story: Callable[[Hub], Awaitable[None]],
    *,
    fault: str = "",
) -> None:
    """Tell a story to a running hub."""

    async def told() -> None:
        async with hub(folder, stand_in, fault=fault) as running:
            await story(running)

    asyncio.run(told())


def text_of(turn: RecordedTurn) -> str:
    return turn.whole(DeltaKind.TEXT)


# --- answering


def test_an_answer_is_streamed_and_names_its_responses(tmp_path: Path, stand_in: Provider) -> None:
    """One prompt is two calls of the provider; both are named, so that the wire's usage can be joined to the turn."""
    before = len(stand_in.answers())

    async def story(running: Hub) -> None:
        turn = await running.ask("[[say four words are enough]] [[events 4]] [[delay 30ms]]")
        assert text_of(turn) == "four words are enough"
        assert turn.whole(DeltaKind.THINKING) == "Weighing the question. Choosing the words."
        assert len([1 for kind, _ in turn.deltas if kind is DeltaKind.TEXT]) > 1
        assert turn.result is not None
        assert turn.result.stop_reason is StopReason.END
        answers = stand_in.answers(after=before, at_least=2)
        assert turn.result.response_ids == tuple(answer["response_id"] for answer in answers)
        assert [answer["request_model"] for answer in answers] == ["gemini-3-flash", "gemini-3.1-flash-lite"]
        assert {answer["conversation_id"] for answer in answers} == {turn.conversation}
        assert all(answer["complete"] and answer["coded"] for answer in answers)

    run(tmp_path, stand_in, story)


@pytest.mark.parametrize(
    "fault",
    [
        "no-agent-stream",
        "reactive-disabled",
        "trailer-error",
        "stream-cut",
        "frames-split",
        "frames-joined",
        "idle-first",
        "queued",
        "no-fully-idle",
        "http-only,idle-first,no-agent-stream",
    ],
)
def test_an_answer_is_whole_whatever_the_stream_does(tmp_path: Path, stand_in: Provider, fault: str) -> None:
    async def story(running: Hub) -> None:
        for number in range(2):
            turn = await running.ask(f"[[say answer {number} with naïve ✓ characters]] [[events 6]] [[delay 10ms]]")
            assert text_of(turn) == f"answer {number} with naïve ✓ characters"
            assert turn.result is not None
            assert len(turn.result.response_ids) == 2

    run(tmp_path, stand_in, story, fault=fault)


def test_a_follow_up_goes_on_in_its_conversation(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        first = await running.ask("[[say one]] first")
        second = await running.ask("[[say one]] first", "one", "[[say two]] second")
        other = await running.ask("[[say one]] first", "never said", "[[say three]]")
        assert text_of(second) == "two"
        assert second.conversation == first.conversation
        assert other.conversation != first.conversation

    run(tmp_path, stand_in, story)


def test_several_turns_run_at_once(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        asked = [f"[[say answer {n}]] [[delay 20ms]]" for n in range(running.profile.turns_at_once)]
        async with asyncio.TaskGroup() as group:
            turns = [group.create_task(running.ask(text)) for text in asked]
        assert [text_of(turn.result()) for turn in turns] == [f"answer {n}" for n in range(len(asked))]
        assert len({turn.result().conversation for turn in turns}) == len(asked)

    run(tmp_path, stand_in, story)


def test_the_model_is_chosen_per_turn(tmp_path: Path, stand_in: Provider) -> None:
    before = len(stand_in.answers())

    async def story(running: Hub) -> None:
        await running.ask("hello", model="gemini-3.1-pro-high")
        await running.ask("hello", model=None)
        with pytest.raises(TurnRefused) as refused:
            await running.ask("hello", model="gpt-9")
        assert refused.value.kind is FailureKind.UNKNOWN_MODEL

    run(tmp_path, stand_in, story)
    models = [answer["request_model"] for answer in stand_in.answers(after=before)]
    assert models[::2] == ["gemini-3.1-pro-high", "gemini-3-flash"]


def test_length_is_a_reason_of_its_own(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        turn = await running.ask("[[max-tokens]] hello")
        assert turn.result is not None
        assert turn.result.stop_reason is StopReason.LENGTH

    run(tmp_path, stand_in, story)


# --- what goes wrong


@pytest.mark.parametrize(
    ("order", "status", "kind", "words"),
    [
        ("[[status 429]]", 429, FailureKind.UPSTREAM, "RESOURCE_EXHAUSTED"),
        ("[[status 403]] [[reason VALIDATION_REQUIRED]]", 403, FailureKind.UPSTREAM, "has to be validated"),
        ("[[status 403]] [[reason TOS_VIOLATION]]", 403, FailureKind.UPSTREAM, "terms of service"),
        ("[[status 401]]", 401, FailureKind.NOT_READY, "UNAUTHENTICATED"),
        ("[[status 503]]", 503, FailureKind.UPSTREAM, "No capacity available"),
        ("[[status 500]]", 500, FailureKind.UPSTREAM, "INTERNAL"),
    ],
)
def test_a_refusal_of_the_provider_is_told_with_its_status(
    tmp_path: Path, stand_in: Provider, order: str, status: int, kind: FailureKind, words: str
) -> None:
    async def story(running: Hub) -> None:
        with pytest.raises(TurnRefused) as refused:
            await running.ask(f"{order} hello")
        assert (refused.value.kind, refused.value.status) == (kind, status)
        assert words in refused.value.message
        assert text_of(await running.ask("[[say still here]]")) == "still here"

    run(tmp_path, stand_in, story)


def test_an_error_that_passes_is_no_failure(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        turn = await running.ask("[[status 503 times 2]] [[say at last]] in this very test")
        assert text_of(turn) == "at last"

    run(tmp_path, stand_in, story)


def test_a_stream_that_breaks_off_at_the_provider_fails_the_turn(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        turn = running.turn("[[cut 4]] [[say never to be heard in full]] [[delay 30ms]]")
        with pytest.raises(TurnRefused) as refused:
            await running.profile.answer(turn)
        assert refused.value.kind is FailureKind.UPSTREAM
        assert text_of(turn)

    run(tmp_path, stand_in, story)


def test_a_hub_that_dies_fails_the_turn(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        with pytest.raises(TurnRefused) as refused:
            await running.ask("[[delay 20ms]] hello")
        assert refused.value.kind is FailureKind.INTERNAL
        assert await running.child.exited() == 2

    run(tmp_path, stand_in, story, fault="dies-mid-turn")


@pytest.mark.parametrize("stream", ["", ",no-agent-stream"])
def test_a_turn_without_an_answer_is_a_failure(tmp_path: Path, stand_in: Provider, stream: str) -> None:
    async def story(running: Hub) -> None:
        with pytest.raises(TurnRefused, match="without an answer"):
            await running.ask("hello")

    run(tmp_path, stand_in, story, fault="silent" + stream)


@pytest.mark.parametrize("stream", ["", ",no-agent-stream"])
def test_a_command_is_refused_and_the_answer_goes_on(tmp_path: Path, stand_in: Provider, stream: str) -> None:
    """Nothing is executed for a prompt that came over HTTP."""

    async def story(running: Hub) -> None:
        turn = await running.ask("[[say done]] clean up")
        assert [title for kind, title in turn.deltas if kind is DeltaKind.TOOL] == ["run command"]
        assert text_of(turn) == "done\n\ndone"

    run(tmp_path, stand_in, story, fault="waiting" + stream)


def test_a_question_to_a_person_ends_the_turn(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        with pytest.raises(TurnRefused, match="asks a person for askSomethingNew") as refused:
            await running.ask("hello")
        assert refused.value.kind is FailureKind.INVALID

    run(tmp_path, stand_in, story, fault="waiting-unknown")


def test_cancelling_ends_the_turn_at_the_hub(tmp_path: Path, stand_in: Provider) -> None:
    """The provider's stream is broken off too: nobody pays for what nobody reads."""
    before = len(stand_in.answers())

    async def story(running: Hub) -> None:
        turn = running.turn("[[events 200]] [[delay 50ms]] a long story")
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(running.profile.answer(turn))
            async with asyncio.timeout(10):
                await turn.heard.wait()
            answering.cancel()
        assert answering.cancelled()
        [broken] = await asyncio.to_thread(stand_in.answers, after=before, at_least=1)
        assert not broken["complete"]

    run(tmp_path, stand_in, story)


def test_a_turn_that_never_ends_can_be_cancelled(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        turn = running.turn("[[say all of it]]")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await running.profile.answer(turn)
        assert text_of(turn) == "all of it"

    run(tmp_path, stand_in, story, fault="stuck-running")
