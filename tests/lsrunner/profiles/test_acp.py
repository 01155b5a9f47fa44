"""The profile acp, against a real agent process that speaks raw JSON-RPC."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from services.events.lifecycle import OfferedModel
from services.events.turn import FailureKind, Message, Role, StopReason, TurnRequested
from services.lsrunner.lodging import Account, Command, Lodging, Way, guarded
from services.lsrunner.process import PROTOCOL_LINE_BYTES_MAX, GuardedProcess
from services.lsrunner.profiles import Place, ProfileFailed, TurnRefused
from services.lsrunner.profiles.acp import AcpProfile
from services.runtime.settings import LsrunnerSettings
from tests.support.checkout import PROJECT

AGENT = str(PROJECT / "tests" / "fakes" / "acp_agent.py")
MODELS = (OfferedModel(id="small", name="Small"), OfferedModel(id="large", name="Large"))


class RecordedTurn:
    """Keeps what a profile says."""

    def __init__(self, *texts: str, model: str | None = None) -> None:
        roles = (Role.USER, Role.ASSISTANT)
        messages = tuple(Message(role=roles[n % 2], text=text) for n, text in enumerate(texts))
        self.request = TurnRequested(turn_id="T", model=model, messages=messages, deadline_s=60.0)
        self.said: list[tuple[str, str]] = []
        self.began = asyncio.Event()

    def text(self, delta: str) -> None:
        """Keep it."""
        self.said.append(("text", delta))
        self.began.set()

    def thinking(self, delta: str) -> None:
        """Keep it."""
        self.said.append(("thinking", delta))

    def tool(self, title: str) -> None:
        """Keep it."""
        self.said.append(("tool", title))

    def accepted_conversation(self, conversation_id: str) -> None:
        """Never called: agents' calls tell no conversation on the wire."""
        raise AssertionError

    @property
    def whole(self) -> str:
        """Return the answer."""
        return "".join(text for kind, text in self.said if kind == "text")


@contextlib.asynccontextmanager
async def agent(tmp_path: Path, *options: str) -> AsyncIterator[AcpProfile]:
    """Start the agent behind the guard, as the runner does; the profile is made ready."""
    settings = LsrunnerSettings(profile="acp", command=(sys.executable, AGENT, *options))
    place = Place(
        settings=settings,
        label="acp",
        user="u",
        uid=1,
        home=tmp_path,
        workspace=tmp_path,
        shared=tmp_path,
        python=sys.executable,
        proxy=None,
        version="1",
    )
    profile = AcpProfile(place)
    launch = profile.launch()
    lodging = Lodging(
        account=Account(user="u", uid=1, sudo=False),
        way=Way.CONNECT,
        python=sys.executable,
        home=tmp_path,
        workspace=tmp_path,
    )
    guard = PROJECT / "services" / "lsrunner" / "guard.py"
    program = guarded(lodging, guard, launch.program, launch.keeps_stdin)
    process = await GuardedProcess.start(
        Command(argv=program, environ={"PATH": "/usr/bin"}), keeps_stdin=True, stdout_is_protocol=True
    )

    async with asyncio.TaskGroup() as group:
        group.create_task(process.attend())
        try:
            profile.models = await profile.ready(process, lambda state, **_: None)
            yield profile
        finally:
            await profile.close()
            await process.stop()


def tell(story) -> None:
    """Run one story on the loop that production uses; a lone failure is raised as itself."""
    try:
        uvloop.run(story)
    except BaseExceptionGroup as group:
        [error] = group.exceptions
        raise error from None


def test_an_answer_comes_in_order_and_unknown_updates_are_passed_over(tmp_path):
    """Thoughts, tools and text, as the agent said them."""

    async def story():
        async with agent(tmp_path) as profile:
            assert profile.models == MODELS
            turn = RecordedTurn("echo " + "abcdefgh" * 50)
            result = await profile.answer(turn)
            assert (result.stop_reason, result.response_ids) == (StopReason.END, ())
            assert turn.said[:2] == [("thinking", "thinking about it"), ("tool", "reading a file")]
            assert turn.whole == "s1#1:" + "abcdefgh" * 50

    tell(story())


def test_a_follow_up_goes_on_in_its_session(tmp_path):
    """And a new conversation in a new one, told what was said before."""

    async def story():
        async with agent(tmp_path) as profile:
            first = RecordedTurn("echo one")
            await profile.answer(first)
            second = RecordedTurn("echo one", first.whole, "echo two")
            await profile.answer(second)
            assert second.whole == "s1#2:two"
            foreign = RecordedTurn("hello", "never said here", "echo all")
            await profile.answer(foreign)
            assert foreign.whole.startswith("s2#1:[The conversation so far")
            assert "Assistant: never said here" in foreign.whole

    tell(story())


@pytest.mark.parametrize("options", [(), ("--options",)])
def test_a_model_is_chosen_the_way_the_agent_offers(tmp_path, options):
    """By its own method, or by a configuration option; and chosen back in the same session."""

    async def story():
        async with agent(tmp_path, *options) as profile:
            assert profile.models == MODELS
            first = RecordedTurn("model", model="large")
            await profile.answer(first)
            second = RecordedTurn("model", first.whole, "model", model="small")
            await profile.answer(second)
            assert (first.whole, second.whole) == ("large", "small")

    tell(story())


def test_an_agent_that_tells_no_models_offers_one(tmp_path):
    """With the agent's name."""

    async def story():
        async with agent(tmp_path, "--plain") as profile:
            assert profile.models == (OfferedModel(id="fake-agent", name="fake-agent"),)
            turn = RecordedTurn("echo x", model="fake-agent")
            await profile.answer(turn)
            assert turn.whole == "s1#1:x"

    tell(story())


def test_an_api_key_signs_in_without_a_person(tmp_path):
    """The agent has the key; it only wants to be told that it is the way."""

    async def story():
        async with agent(tmp_path, "--auth") as profile:
            assert profile.models == MODELS

    tell(story())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--oauth", "the agent wants its user to sign in first: Authentication required"),
        ("--stale", "the agent speaks version 99 of the protocol, not 1"),
    ],
)
def test_an_agent_that_cannot_be_used_says_why(tmp_path, option, words):
    """In words for people."""

    async def story():
        async with agent(tmp_path, option):
            pass

    with pytest.raises(ProfileFailed, match=words):
        tell(story())


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        (429, FailureKind.UPSTREAM, 429),
        (-32000, FailureKind.NOT_READY, None),
        (-32602, FailureKind.INVALID, None),
        (-32603, FailureKind.UPSTREAM, None),
    ],
)
def test_an_error_of_the_agent_is_translated(tmp_path, code, kind, status):
    """Providers' statuses stay what they are; the next turn is answered."""

    async def story():
        async with agent(tmp_path) as profile:
            with pytest.raises(TurnRefused, match="it failed: because") as caught:
                await profile.answer(RecordedTurn(f"error {code}"))
            assert (caught.value.kind, caught.value.status) == (kind, status)
            turn = RecordedTurn("echo on")
            await profile.answer(turn)
            assert turn.whole == "s2#1:on"

    tell(story())


def test_permissions_are_refused_and_files_are_not_there(tmp_path):
    """The agent answers prompts here, it does not work on the machine."""

    async def story():
        async with agent(tmp_path) as profile:
            turn = RecordedTurn("ask")
            await profile.answer(turn)
            assert json.loads(turn.whole) == {"outcome": {"outcome": "selected", "optionId": "no"}}

    tell(story())


def test_cancelling_reaches_the_agent(tmp_path):
    """And what it says afterwards belongs to nobody."""

    async def story():
        async with agent(tmp_path) as profile, asyncio.TaskGroup() as group:
            turn = RecordedTurn("slow")
            answering = group.create_task(profile.answer(turn))
            await turn.began.wait()
            answering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await answering
            after = RecordedTurn("slow", "started", "echo on")
            await profile.answer(after)
            assert after.whole == "s2#1:on"

    tell(story())


def test_an_agent_that_does_not_listen_is_left_alone(tmp_path, monkeypatch):
    """After a bounded wait; its session is not used again."""
    monkeypatch.setattr("services.lsrunner.profiles.acp._CANCEL_TIMEOUT_S", 0.1)

    async def story():
        async with agent(tmp_path) as profile, asyncio.TaskGroup() as group:
            turn = RecordedTurn("deaf")
            answering = group.create_task(profile.answer(turn))
            await turn.began.wait()
            answering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await answering
            after = RecordedTurn("echo on")
            await profile.answer(after)
            assert after.whole == "s2#1:on"

    tell(story())


def test_lines_that_are_no_messages_are_passed_over(tmp_path):
    """Libraries print; and a line beyond every bound is not kept."""

    async def story():
        async with agent(tmp_path) as profile:
            turn = RecordedTurn(f"noise {PROTOCOL_LINE_BYTES_MAX * 2 + 5}")
            await profile.answer(turn)
            assert turn.whole == "still here"

    tell(story())


def test_an_agent_that_dies_refuses_the_turn(tmp_path):
    """With a word about where it happened."""

    async def story():
        async with agent(tmp_path) as profile:
            with pytest.raises(TurnRefused, match="closed its output in the middle of the turn"):
                await profile.answer(RecordedTurn("die"))

    tell(story())
