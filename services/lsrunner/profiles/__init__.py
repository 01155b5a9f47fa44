"""
What a kind of language server must say and do to be run: the interface between the runner and its profiles.

    simulated    ships with Wiremeter, needs neither account nor network
    command      any program: metered, answers no turns
    acp          any Agent Client Protocol agent over stdio
    antigravity  the hub language server, Connect-RPC on loopback

How to add one: a module here with a class that fits `Profile` and is built from a `Place`, and one line in
`services/lsrunner/choice.py`. The runner owns the process (user, environment, guard, restarts) and the turns' order,
deadlines and numbering; a profile owns what is said to the language server, and nothing else.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from services.events.lifecycle import OfferedModel, ServerState
from services.events.turn import FailureKind, StopReason, TurnRequested
from services.runtime.settings import LsrunnerSettings


class ProfileFailed(Exception):
    """The language server cannot become ready; the message is for people, lower case, without secrets."""


class TurnRefused(Exception):
    """A turn ends without (the rest of) an answer; `message` is for people, lower case, without secrets."""

    def __init__(self, kind: FailureKind, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Where a language server will live; every profile is built from this and nothing else.

    Attributes:
        settings: `[lsrunner]`.
        label: `client.label` of its exchanges.
        user: UNIX user that it runs as.
        uid: Of that user.
        home: Its `HOME`, writable for it; possibly not enterable for us.
        workspace: A private directory for its work, empty at first, writable for it; possibly not enterable for us.
        shared: A directory of ours that it can read: scripts for it go here.
        python: A Python >= 3.7 that it can execute.
        proxy: `http://<label>:@127.0.0.1:<port>` when its traffic comes by CONNECT (set in its environment already),
            None when it is redirected.
        version: Of Wiremeter, for client information.
    """

    settings: LsrunnerSettings
    label: str
    user: str
    uid: int
    home: Path
    workspace: Path
    shared: Path
    python: str
    proxy: str | None
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """
    What to start.

    Attributes:
        program: Program and arguments; no secrets, every local user can read them.
        environment: Beside what the runner sets by itself (trust bundle, proxy, HOME, PATH, LANG, …); no secrets.
        keeps_stdin: False: the language server reads /dev/null. True: a pipe that the profile writes to.
        stdout_is_protocol: stdout belongs to the profile; else it is drained as log lines, as stderr always is.
    """

    program: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    keeps_stdin: bool = False
    stdout_is_protocol: bool = False


class Child(Protocol):
    """The running process, as a profile sees it."""

    @property
    def pid(self) -> int | None:
        """Of the language server itself where the guard has told it, else None."""
        ...

    async def started(self) -> int:
        """Wait until the guard has told the pid; return it."""
        ...

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """Only with `keeps_stdin`."""
        ...

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """Only with `stdout_is_protocol`."""
        ...

    def lines(self) -> AsyncIterator[str]:
        """
        Yield log lines, from the first one on: stderr, and stdout unless that is the protocol.

        Ends when the process closes both. Lines are cut at a bound; when nobody reads, the oldest are forgotten and
        the process is never blocked. Each call iterates anew over what is still remembered.
        """
        ...

    async def exited(self) -> int:
        """Wait for the end; return the status, 128 + n for signal n, negative when sudo or the guard was killed."""
        ...


class Turn(Protocol):
    """One turn, as a profile answers it; deltas are published in the order of the calls."""

    @property
    def request(self) -> TurnRequested:
        """What was asked."""
        ...

    def text(self, delta: str) -> None:
        """Say a new piece of the answer."""
        ...

    def thinking(self, delta: str) -> None:
        """Say a new piece of what the model thinks aloud."""
        ...

    def tool(self, title: str) -> None:
        """Say that a tool is being used."""
        ...

    def accepted_conversation(self, conversation_id: str) -> None:
        """Tell the conversation's id as soon as it is known, if the language server's calls carry it on the wire."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """How a turn ended; see `TurnDone`."""

    stop_reason: StopReason
    response_ids: tuple[str, ...] = ()
    conversation_id: str | None = None


class Report(Protocol):
    """How a profile tells where it stands while it is not ready yet."""

    def __call__(self, state: ServerState, *, detail: str | None = None, login_url: str | None = None) -> None:
        """`state` is STARTING or SIGNING_IN; the start's time limit stands still while someone signs in."""
        ...


class Profile(Protocol):
    """
    One kind of language server; one object per start of the process.

    `__init__(place: Place)` builds it. Beside this, a profile that `auto` may choose has
    `@classmethod available(cls, settings: LsrunnerSettings, environ: Mapping[str, str]) -> str | None`: the path of
    what is installed.
    """

    NAME: ClassVar[str]

    @property
    def accepts_turns(self) -> bool:
        """Whether it answers prompts at all."""
        ...

    @property
    def turns_at_once(self) -> int:
        """1 unless the calls on the wire tell turns apart."""
        ...

    def launch(self) -> Launch:
        """
        Say what to start.

        Raises:
            ProfileFailed: It cannot be started, for example because it is not installed.
        """
        ...

    async def ready(self, child: Child, report: Report) -> tuple[OfferedModel, ...]:
        """
        Return the models offered as soon as turns can be answered; called once, cancelled when it takes too long.

        Raises:
            ProfileFailed: It will not become ready; it is stopped, and started again later.
        """
        ...

    async def answer(self, turn: Turn) -> TurnResult:
        """
        Answer one turn. Cancellation cancels the turn at the language server and is re-raised.

        Raises:
            TurnRefused: It will not be answered, or not to the end.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and tasks; the process is stopped by the runner. Called once, also after failures."""
        ...
