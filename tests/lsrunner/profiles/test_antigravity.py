"""The antigravity profile, on a fake hub written in Go and a stand-in of the provider, all real processes."""

import asyncio
import stat
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from services.events.lifecycle import ServerState
from services.lsrunner.hub import flags_in_help
from services.lsrunner.installation import help_of
from services.lsrunner.profiles import ProfileFailed
from services.lsrunner.profiles.antigravity import AntigravityProfile
from services.runtime.settings import LsrunnerSettings
from tests.support.antigravity import Hub, hub
from tests.support.go import built
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
    ready: bool = True,
) -> None:
    """Tell a story to a running hub."""

    async def told() -> None:
        async with hub(folder, stand_in, fault=fault, ready=ready) as running:
            await story(running)

    asyncio.run(told())


# --- starting


def test_models_are_offered_by_ids_made_of_their_labels(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        assert [(m.id, m.name) for m in running.models] == [
            ("gemini-3-flash", "Gemini 3 Flash"),
            ("gemini-3.1-pro-high", "Gemini 3.1 Pro (High)"),
            ("claude-sonnet-4.6-thinking", "Claude Sonnet 4.6 (Thinking)"),
            ("gpt-oss-120b-medium", "GPT-OSS 120B (Medium)"),
        ]

    run(tmp_path, stand_in, story)


def test_start_up_calls_reach_the_provider_by_name(tmp_path: Path, stand_in: Provider) -> None:
    before = len(stand_in.requests())
    run(tmp_path, stand_in, _nothing)
    paths = [request["path"] for request in stand_in.requests(after=before)]
    assert paths == [
        "/v1internal/cascadeNuxes",
        "/v1internal:loadCodeAssist",
        "/v1internal:fetchUserInfo",
        "/v1internal:fetchAvailableModels",
    ]


async def _nothing(_running: Hub) -> None:
    pass


@pytest.mark.parametrize(
    "fault", ["https-only", "http-only", "rpc-503=600ms", "stdout-port-line", "start-delay=300ms", "no-auth-rpc"]
)
def test_the_hub_is_found_however_it_listens(tmp_path: Path, stand_in: Provider, fault: str) -> None:
    async def story(running: Hub) -> None:
        assert len(running.models) == 4

    run(tmp_path, stand_in, story, fault=fault)


def test_a_port_that_is_never_announced_is_waited_for_with_a_word(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await running.profile.ready(running.child, running.reported)
        assert running.reported.states[-1][:2] == (
            ServerState.STARTING,
            "waiting for the language server to say where it listens",
        )

    run(tmp_path, stand_in, story, fault="no-port-line", ready=False)


def test_a_hub_that_refuses_its_arguments_is_a_failure(tmp_path: Path, stand_in: Provider) -> None:
    async def told() -> None:
        async with hub(tmp_path, stand_in, flags=("--no_such_flag",), ready=False) as running:
            with pytest.raises(ProfileFailed, match="ended before it answered"):
                await running.become_ready()
            assert await running.child.exited() == 2

    asyncio.run(told())


def test_distrust_of_the_certificate_is_named_while_it_starts(tmp_path: Path, stand_in: Provider) -> None:
    folder = tmp_path / "stranger"
    folder.mkdir()

    async def told(stranger: Provider) -> None:
        # The hub trusts the authority of one stand-in and meets the other.
        async with hub(
            tmp_path, stand_in, flags=(f"--cloud_code_endpoint=https://{stranger.address}",), ready=False
        ) as h:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await h.profile.ready(h.child, h.reported)
            assert "it does not trust mitm's certificate" in str(h.reported.states[-1][1])

    with provider(folder) as stranger:
        asyncio.run(told(stranger))


def test_flags_that_the_build_does_not_know_are_dropped(tmp_path: Path, stand_in: Provider) -> None:
    known = flags_in_help(help_of(str(built("antigravity")), 0))
    assert {"standalone", "csrf_token", "cloud_code_endpoint"} <= known

    async def story(running: Hub) -> None:
        flags = {
            argument.lstrip("-").partition("=")[0] for argument in running.launch.program[1:] if argument[0] == "-"
        }
        assert flags <= known
        assert "--standalone" in running.launch.program

    run(tmp_path, stand_in, story, ready=False)


def test_the_token_is_new_at_each_start_and_demanded(tmp_path: Path, stand_in: Provider) -> None:
    tokens = set()

    async def story(running: Hub) -> None:
        tokens.update(argument for argument in running.launch.program if argument.startswith("--csrf_token="))

    run(tmp_path, stand_in, story, ready=False)
    run(tmp_path, stand_in, story, ready=False)
    assert len(tokens) == 2


def test_a_binary_that_is_not_there_is_named() -> None:
    settings = LsrunnerSettings(profile="antigravity", command=("/nowhere/language_server",))
    assert AntigravityProfile.available(settings, {}) == "/nowhere/language_server"
    assert AntigravityProfile.available(LsrunnerSettings(command=("gemini", "--acp")), {}) is None


# --- signing in


@pytest.mark.parametrize("way", ["", ",no-xdg-open"])
def test_the_user_is_shown_where_to_sign_in(tmp_path: Path, stand_in: Provider, way: str) -> None:
    """The hub opens a browser, or writes the address into its log; either way the user gets it."""

    async def story(running: Hub) -> None:
        async with asyncio.TaskGroup() as group:
            ready = group.create_task(running.become_ready())
            async with asyncio.timeout(15):
                url = await running.reported.login_url
            assert url.startswith("https://accounts.google.com/o/oauth2/")
            assert not ready.done()
            await _consent(url)
        assert running.models
        states = [state for state, _, _ in running.reported.states]
        assert ServerState.SIGNING_IN in states
        assert states[-1] is ServerState.STARTING
        token = tmp_path / "home" / ".gemini" / "jetski-standalone-oauth-token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert not (tmp_path / "shared" / "sign-in.sock").exists()

    run(tmp_path, stand_in, story, fault="signed-out" + way, ready=False)


async def _consent(url: str) -> None:
    """Be the browser of a user who agrees."""
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    back = query["redirect_uri"][0].replace("localhost", "127.0.0.1")
    async with aiohttp.ClientSession() as session:
        async with session.get(back, params={"code": "4/0Ab", "state": query["state"][0]}) as response:
            assert response.status == 200


def test_who_is_signed_in_stays_signed_in(tmp_path: Path, stand_in: Provider) -> None:
    token = tmp_path / "home" / ".gemini" / "jetski-standalone-oauth-token"
    token.parent.mkdir(parents=True)
    token.write_text("{}")

    async def story(running: Hub) -> None:
        assert ServerState.SIGNING_IN not in [state for state, _, _ in running.reported.states]

    run(tmp_path, stand_in, story, fault="signed-out")


# --- ending


def test_sigterm_ends_the_hub_with_status_0(tmp_path: Path, stand_in: Provider) -> None:
    async def story(running: Hub) -> None:
        await running.child.stop()
        assert await running.child.exited() == 0

    run(tmp_path, stand_in, story)
