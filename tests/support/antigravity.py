"""
The antigravity profile at work on the fake hub (tests/fakes/antigravity), behind the real guard, with the stand-in.

    async with hub(tmp_path, provider, fault="idle-first") as running:
        answer = await running.ask("hello")

No root, no redirect: the fake calls the stand-in directly, trusting its authority by SSL_CERT_FILE.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.events.lifecycle import OfferedModel, ServerState
from services.events.turn import DeltaKind, Message, Role, TurnRequested
from services.lsrunner.lodging import SYSTEM_PATH, Command
from services.lsrunner.process import GuardedProcess
from services.lsrunner.profiles import Launch, Place, TurnResult
from services.lsrunner.profiles.antigravity import AntigravityProfile
from services.runtime.settings import LsrunnerSettings
from tests.support.go import built
from tests.support.provider import Provider

GUARD = Path(__file__).resolve().parents[2] / "services" / "lsrunner" / "guard.py"
READY_TIMEOUT_S = 20.0


@dataclass
class RecordedTurn:
    """A turn whose pieces are kept."""

    request: TurnRequested
    deltas: list[tuple[DeltaKind, str]] = field(default_factory=list)
    conversation: str | None = None
    result: TurnResult | None = None
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def text(self, delta: str) -> None:
        self._hear(DeltaKind.TEXT, delta)

    def thinking(self, delta: str) -> None:
        self._hear(DeltaKind.THINKING, delta)

    def tool(self, title: str) -> None:
        self._hear(DeltaKind.TOOL, title)

    def accepted_conversation(self, conversation_id: str) -> None:
        self.conversation = conversation_id

    def _hear(self, kind: DeltaKind, delta: str) -> None:
        self.deltas.append((kind, delta))
        self.heard.set()

    def whole(self, kind: DeltaKind) -> str:
        """Join what was said of one kind."""
        return "".join(text for k, text in self.deltas if k is kind)


@dataclass
class Reported:
    """What the profile reported before it was ready."""

    states: list[tuple[ServerState, str | None, str | None]] = field(default_factory=list)
    login_url: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __call__(self, state: ServerState, *, detail: str | None = None, login_url: str | None = None) -> None:
        self.states.append((state, detail, login_url))
        if login_url is not None and not self.login_url.done():
            self.login_url.set_result(login_url)


class Hub:
    """One start of the profile."""

    def __init__(self, profile: AntigravityProfile, child: GuardedProcess, launch: Launch) -> None:
        self.profile = profile
        self.child = child
        self.launch = launch
        self.reported = Reported()
        self.models: tuple[OfferedModel, ...] = ()

    async def become_ready(self) -> None:
        """Wait until the profile is ready."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            self.models = await self.profile.ready(self.child, self.reported)

    def turn(self, *texts: str, model: str | None = "gemini-3-flash") -> RecordedTurn:
        """Make a turn; the texts are the user's and the assistant's in turn."""
        roles = (Role.USER, Role.ASSISTANT)
        messages = tuple(Message(role=roles[n % 2], text=text) for n, text in enumerate(texts))
        return RecordedTurn(TurnRequested(turn_id="t1", model=model, messages=messages, deadline_s=30.0))

    async def ask(self, *texts: str, model: str | None = "gemini-3-flash") -> RecordedTurn:
        """Have a turn answered."""
        turn = self.turn(*texts, model=model)
        async with asyncio.timeout(READY_TIMEOUT_S):
            turn.result = await self.profile.answer(turn)
        return turn


@contextlib.asynccontextmanager
async def hub(
    folder: Path, provider: Provider, *, fault: str = "", flags: Sequence[str] = (), ready: bool = True
) -> AsyncIterator[Hub]:
    """Start the fake hub under the profile; at the end everything is stopped."""
    home, workspace, shared = (folder / name for name in ("home", "workspace", "shared"))
    for path in (home, workspace, shared):
        path.mkdir(exist_ok=True)
    endpoint = f"https://{provider.address}"
    settings = LsrunnerSettings(
        profile="antigravity", command=(str(built("antigravity")), "--cloud_code_endpoint", endpoint, *flags)
    )
    profile = AntigravityProfile(
        Place(
            settings=settings,
            label="antigravity",
            user="whoever",
            uid=os.geteuid(),
            home=home,
            workspace=workspace,
            shared=shared,
            python=sys.executable,
            proxy=None,
            version="0",
        )
    )
    launch = profile.launch()
    environ = {
        "HOME": str(home),
        "PATH": SYSTEM_PATH,
        "SSL_CERT_FILE": str(provider.ca_file),
        "SSL_CERT_DIR": "/dev/null",
        "WIREMETER_FAKE_FAULT": fault,
        **launch.environment,
    }
    argv = (sys.executable, "-IS", str(GUARD), "null", "2", str(workspace), *launch.program)
    child = await GuardedProcess.start(Command(argv=argv, environ=environ), keeps_stdin=False, stdout_is_protocol=False)
    async with asyncio.TaskGroup() as group:
        group.create_task(child.attend())
        running = Hub(profile, child, launch)
        try:
            if ready:
                await running.become_ready()
            yield running
        finally:
            await profile.close()
            await child.stop()
