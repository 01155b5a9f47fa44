"""
Antigravity's hub language server, the `--standalone` one of the 2.x desktop app, with its own login.

Started    with the hub's flags, those that the build knows; stdin is empty. The secret that every call must carry is on
           its command line, by the vendor's design: any local user can read it, so it protects from web pages only.
Found      by the port that it writes into its log; HTTPS and HTTP are both tried.
Ready      when it is signed in and offers models. Signing in is its own: it opens the vendor's page, whose address is
           shown to the user; the token stays in the home of the user that it runs as.
Turns      are conversations of its agent, which adds its own prompt and tools; nothing is executed or written for it.
           Calls on the wire carry the conversation's id, so several turns can run at once.

Whether other programs may use that login is for the vendor's terms to say; frontproxy asks the user about them.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from services.events.lifecycle import OfferedModel, ServerState
from services.events.turn import FailureKind, StopReason
from services.lsrunner.browser import Browser
from services.lsrunner.connect_rpc import ConnectClient, Origin, RpcBroken, RpcError, RpcRefused
from services.lsrunner.conversations import Continue, Conversations
from services.lsrunner.dialogue import Dialogue
from services.lsrunner.hub import (
    CSRF_HEADER,
    SERVICE,
    HubModel,
    Port,
    flags_in_help,
    hub_arguments,
    is_signed_in,
    login_url_in,
    metadata,
    models_in,
    port_in,
    trouble_in,
)
from services.lsrunner.installation import help_of, installed_binary, installed_version
from services.lsrunner.lodging import SYSTEM_PATH
from services.lsrunner.profiles import Child, Launch, Place, ProfileFailed, Report, Turn, TurnRefused, TurnResult
from services.runtime.settings import LsrunnerSettings

# Turns are told apart on the wire; the provider's own limits are reached long before this.
TURNS_AT_ONCE = 4
_PROBE_TIMEOUT_S = 3.0
_POLL_S = 0.2
_SIGN_IN_POLL_S = 0.5
# A Login that ended without a login is offered anew, in no hurry.
_LOGIN_PAUSE_S = 2.0


class AntigravityProfile:
    """One start of the hub; fits `profiles.Profile`."""

    NAME: ClassVar[str] = "antigravity"

    def __init__(self, place: Place) -> None:
        self._place = place
        self._csrf_token = str(uuid.uuid4())
        self._browser = Browser(place.shared, place.python, place.uid)
        self._app_version: str | None = None
        self._log = _Log(self._browser)
        self._rpc: ConnectClient | None = None
        self._dialogue: Dialogue | None = None
        self._models: tuple[HubModel, ...] = ()
        self._conversations: Conversations[str] = Conversations()

    @classmethod
    def available(cls, settings: LsrunnerSettings, environ: Mapping[str, str]) -> str | None:
        """Return the path of the hub's binary: the one that is set, else where the vendor's packages put it."""
        if settings.command:
            # Under `auto` a command belongs to acp, unless it is plainly this binary.
            is_ours = settings.profile == cls.NAME or Path(settings.command[0]).name.startswith("language_server")
            return settings.command[0] if is_ours else None
        return installed_binary(environ)

    @property
    def accepts_turns(self) -> bool:
        """See `profiles.Profile`."""
        return True

    @property
    def turns_at_once(self) -> int:
        """See `profiles.Profile`."""
        return TURNS_AT_ONCE

    def launch(self) -> Launch:
        """See `profiles.Profile`."""
        settings = self._place.settings
        binary = settings.command[0] if settings.command else installed_binary({"HOME": str(Path.home())})
        if binary is None:
            raise ProfileFailed("the antigravity language server is not installed; lsrunner.command can name it")
        if not os.access(binary, os.X_OK):
            raise ProfileFailed(f"{binary} cannot be executed")
        try:
            self._browser.install()
        except OSError as error:
            raise ProfileFailed(f"{self._browser.path} cannot be written: {error.strerror}") from error
        self._app_version = installed_version(Path(binary))
        known = flags_in_help(help_of(binary, self._place.uid))
        arguments = hub_arguments(self._csrf_token, self._app_version, known)
        return Launch(
            # What the user added comes last: for a flag that is given twice the last one counts.
            program=(binary, *arguments, *settings.command[1:]),
            environment={"PATH": f"{self._browser.path}:{SYSTEM_PATH}"},
        )

    async def ready(self, child: Child, report: Report) -> tuple[OfferedModel, ...]:
        """See `profiles.Profile`."""
        failure: ProfileFailed | None = None
        try:
            async with self._browser.listening(), asyncio.TaskGroup() as group:
                reading = group.create_task(self._log.read(child))
                try:
                    rpc = self._rpc = await self._find(report)
                    self._models = await self._become_ready(rpc, report)
                except ProfileFailed as error:
                    failure = error
                finally:
                    reading.cancel()
        except OSError as error:
            raise ProfileFailed(f"the sign-in socket cannot be made: {error}") from error
        if failure is not None:
            raise failure
        assert self._rpc is not None
        self._dialogue = Dialogue(self._rpc, metadata(self._app_version), self._place.workspace)
        return tuple(model.offered for model in self._models)

    async def answer(self, turn: Turn) -> TurnResult:
        """See `profiles.Profile`."""
        assert self._dialogue is not None
        model = self._model(turn.request.model)
        claim = self._conversations.claim(turn.request.messages)
        conversation = claim.session if isinstance(claim, Continue) else await self._dialogue.begin()
        turn.accepted_conversation(conversation)
        ending, text = await self._dialogue.say(conversation, claim.text, model, turn)
        if ending.failure is not None:
            raise TurnRefused(ending.failure.kind, ending.failure.message, ending.failure.status)
        assert ending.stop_reason is not None
        if ending.stop_reason in (StopReason.END, StopReason.LENGTH):
            for forgotten in self._conversations.answered(turn.request.messages, text, conversation):
                await self._dialogue.forget(forgotten)
        return TurnResult(
            stop_reason=ending.stop_reason, response_ids=ending.response_ids, conversation_id=conversation
        )

    async def close(self) -> None:
        """See `profiles.Profile`."""
        if self._rpc is not None:
            await self._rpc.close()

    def _model(self, wanted: str | None) -> HubModel:
        for model in self._models:
            if wanted in (None, model.offered.id, model.offered.name, *model.reference.values()):
                return model
        raise TurnRefused(FailureKind.UNKNOWN_MODEL, f"model {wanted!r:.200} is not offered")

    async def _find(self, report: Report) -> ConnectClient:
        """Find the port that speaks Connect; which of them, and over what, differs from build to build."""
        report(ServerState.STARTING, detail="waiting for the language server to say where it listens")
        while True:
            for origin in _origins(self._log.ports):
                client = ConnectClient(origin, SERVICE, {CSRF_HEADER: self._csrf_token})
                found = False
                try:
                    found = await _speaks(client)
                finally:
                    if not found:
                        await client.close()
                if found:
                    return client
            if self._log.has_ended:
                raise ProfileFailed(f"it ended before it answered{self._log.why}")
            await self._log.news(_POLL_S)

    async def _become_ready(self, rpc: ConnectClient, report: Report) -> tuple[HubModel, ...]:
        """Wait until it is signed in and offers models."""
        detail = None
        while True:
            stand = "the language server listens, but offers no models yet"
            try:
                if not await _is_signed_in(rpc):
                    await self._sign_in(rpc, report)
                models = models_in(await rpc.call("GetUserStatus", {"metadata": metadata(self._app_version)}))
                if models:
                    return models
            except RpcRefused as error:
                if "csrf" in error.message.lower():
                    raise ProfileFailed(
                        "the language server does not accept the token that it was started with"
                    ) from error
                stand = f"the language server listens, but says: {error.message or error.code:.200}"
            except RpcBroken:
                stand = "the language server listens, but does not answer"
            if self._log.has_ended:
                raise ProfileFailed(f"it ended before it was ready{self._log.why}")
            if detail != stand + self._log.why:
                detail = stand + self._log.why
                report(ServerState.STARTING, detail=detail)
            await asyncio.sleep(_POLL_S)

    async def _sign_in(self, rpc: ConnectClient, report: Report) -> None:
        """Have the user sign in: for as long as that takes, offered again whenever it is given up."""
        report(ServerState.SIGNING_IN, detail="not signed in; waiting for the address of the sign-in page")
        async with asyncio.TaskGroup() as group:
            helpers = (group.create_task(self._log_in(rpc, report)), group.create_task(self._show(report)))
            while not self._log.has_ended:
                if await _is_surely_signed_in(rpc):
                    break
                await asyncio.sleep(_SIGN_IN_POLL_S)
            for helper in helpers:
                helper.cancel()
        if not self._log.has_ended:
            report(ServerState.STARTING, detail="signed in; waiting for the models")

    async def _log_in(self, rpc: ConnectClient, report: Report) -> None:
        while True:
            try:
                await rpc.call("Login", {}, timeout_s=None)
            except RpcRefused as error:
                if error.code == "unimplemented":
                    user = self._place.user
                    detail = f"not signed in, and this build cannot be asked to: sign in once as the user {user}"
                    report(ServerState.SIGNING_IN, detail=detail)
                    return
            except RpcBroken:
                pass
            await asyncio.sleep(_LOGIN_PAUSE_S)

    async def _show(self, report: Report) -> None:
        # The vendor's page sends the browser back to a port of 127.0.0.1.
        detail = "sign in at this address with a browser on this machine"
        while True:
            report(ServerState.SIGNING_IN, detail=detail, login_url=await self._browser.address())


class _Log:
    """What the language server's log lines told while it started."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._trouble: str | None = None
        self._changed = asyncio.Event()
        self.ports: list[Port] = []
        self.has_ended = False

    @property
    def why(self) -> str:
        """The last complaint, as the end of a sentence."""
        return f": {self._trouble}" if self._trouble else ""

    async def read(self, child: Child) -> None:
        """Read lines until the process closes its log."""
        async for line in child.lines():
            port = port_in(line)
            if port is not None:
                self.ports.append(port)
            address = login_url_in(line)
            if address is not None:
                self._browser.offer(address)
            self._trouble = trouble_in(line) or self._trouble
            self._changed.set()
        self.has_ended = True
        self._changed.set()

    async def news(self, patience_s: float) -> None:
        """Wait for a line, but not long: a port may answer later than it is announced."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._changed.wait()
        self._changed.clear()


def _origins(ports: list[Port]) -> Iterator[Origin]:
    """Yield what to try: HTTPS first, each port as announced, then as not announced, then on IPv6."""
    ordered = sorted(ports, key=lambda port: port.scheme != "https")
    for address in ("127.0.0.1", "::1"):
        for as_announced in (True, False):
            for port in ordered:
                scheme = port.scheme if as_announced else {"http": "https", "https": "http"}[port.scheme]
                yield Origin(scheme=scheme, address=address, port=port.number)


async def _speaks(client: ConnectClient) -> bool:
    """Tell whether this is the service, ready or not."""
    try:
        await client.call("GetUnleashData", {}, _PROBE_TIMEOUT_S)
    except RpcRefused as error:
        return error.is_connect
    except RpcBroken:
        return False
    return True


async def _is_signed_in(rpc: ConnectClient) -> bool:
    """
    Ask whether someone is signed in.

    Raises:
        RpcError: It does not say.
    """
    try:
        return is_signed_in(await rpc.call("GetAuthStatus", {}))
    except RpcRefused as error:
        if error.code != "unimplemented":
            raise
    try:
        await rpc.call("GetUserStatus", {"metadata": metadata(None)})
    except RpcRefused as error:
        if error.code == "unauthenticated" and "csrf" not in error.message.lower():
            return False
        raise
    return True


async def _is_surely_signed_in(rpc: ConnectClient) -> bool:
    try:
        return await _is_signed_in(rpc)
    except RpcError:
        return False
