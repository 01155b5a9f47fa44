"""
One life of the language server after another: lodging, start, readiness, end, pause.

Resources: `run` owns the process, its guard and the profile of the present life. When it is cancelled or fails, and
after every life, the profile is closed and the process stopped, in this order, before anything else happens.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from services.events.lifecycle import LanguageServerState, Missing, OfferedModel, ServerState
from services.events.turn import FailureKind
from services.lsrunner.choice import Build
from services.lsrunner.config import LsrunnerConfig
from services.lsrunner.lodging import (
    GUARD_SAYS,
    SYSTEM_PATH,
    Account,
    Lodging,
    Way,
    account_variables,
    as_account,
    guarded,
    inherited_variables,
)
from services.lsrunner.probe import (
    NoLodging,
    coverage,
    current_account,
    find_account,
    find_lodging,
    forget_home,
    is_listening,
)
from services.lsrunner.process import GuardedProcess
from services.lsrunner.profiles import Place, Profile, ProfileFailed, Turn, TurnRefused, TurnResult
from services.lsrunner.profiles.simulated import NOTICE, SERVER_SCRIPT
from services.lsrunner.store import publish
from services.lsrunner.supervision import Input, Supervision
from services.runtime.environment import proxy_address, proxy_variables, trust_variables
from services.runtime.logs import Logs
from services.runtime.run import VERSION

_SCRIPTS = Path(__file__).resolve().parent
_POLL_S = 0.25
# Everything else has started by then, and people wait.
_POLL_FOR_MITM_S = 0.05
# A process that has closed its output is usually about to end, and its status says more.
_LAST_WORDS_S = 0.5
_COVERAGE_EVERY_S = 60.0
_SAID_LENGTH_MAX = 300
_STARTING = (ServerState.STARTING, ServerState.SIGNING_IN)


class Backend:
    """The language server, as the rest of the runner sees it."""

    def __init__(
        self,
        config: LsrunnerConfig,
        *,
        profile: str,
        build: Build,
        environ: Mapping[str, str],
        logs: Logs,
        on_change: Callable[[], None],
        on_loss: Callable[[str], None],
    ) -> None:
        """`on_change` is called after each change of state, `on_loss` when turns can go on no longer, with the why."""
        self._config = config
        self._settings = config.language_server
        self._name = profile
        self._build = build
        self._environ = environ
        self._logs = logs
        self._on_change = on_change
        self._on_loss = on_loss
        self._supervision = Supervision(self._settings.start_timeout_s)
        self._account = current_account()
        self._lodging: Lodging | None = None
        self._lodging_problem: str | None = None
        self._profile: Profile | None = None
        self._process: GuardedProcess | None = None

    @property
    def label(self) -> str:
        """The `client.label` of its exchanges."""
        return self._settings.label or self._name

    @property
    def turns_at_once(self) -> int:
        """How many turns it tells apart; none while it is not ready."""
        ready = self._profile is not None and self._supervision.state is ServerState.READY
        return self._profile.turns_at_once if ready and self._profile is not None else 0

    def state(self, active_turns: int) -> LanguageServerState:
        """Return where it stands."""
        known = self._lodging
        notice = NOTICE if self._name == "simulated" else None
        said = self._supervision.detail
        return LanguageServerState(
            at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            state=self._supervision.state,
            profile=self._name,
            label=self.label,
            user=self._account.user,
            uid=self._account.uid,
            pid=self._process.pid if self._process is not None else None,
            way=known.way if known is not None else None,
            accepts_turns=self._name != "command",
            models=self._supervision.models,
            active_turns=active_turns,
            restarts=self._supervision.restarts,
            login_url=self._supervision.login_url,
            detail="; ".join(each for each in (said, notice) if each) or None,
        )

    def missing(self) -> tuple[Missing, ...]:
        """Say what is not as it should be."""
        found = list(self._lodging.missing) if self._lodging is not None else []
        if self._lodging_problem is not None:
            where = f"the language server runs as {self._account.user}, through CONNECT: {self._lodging_problem}"
            found.append(Missing(what="user", detail=where))
        if not self._config.trust_bundle.is_file():
            found.append(Missing(what="trust_bundle", detail=f"{self._config.trust_bundle}, written by mitm"))
        if self._supervision.state is not ServerState.READY:
            detail = f"{self._supervision.state.replace('_', ' ')}: {self._supervision.detail or 'no reason is known'}"
            found.append(Missing(what="language_server", detail=detail))
        if self._name == "simulated":
            found.append(Missing(what="real_language_server", detail=NOTICE))
        return tuple(found)

    def facts(self) -> dict[str, object]:
        """Return what is worth seeing in a heartbeat."""
        memory = self._process.memory if self._process is not None else None
        return {
            "profile": self._name,
            "state": self._supervision.state,
            "restarts": self._supervision.restarts,
            "log_lines": memory.lines_seen if memory is not None else 0,
        }

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep a language server running until `stopping` is set, then end it."""
        async with asyncio.TaskGroup() as group:
            living = group.create_task(self._live_again_and_again())
            await stopping.wait()
            self._take(Input.ASKED_TO_STOP)
            self._on_loss("wiremeter is stopping")
            living.cancel()
        self._take(Input.ENDED)

    async def _live_again_and_again(self) -> None:
        while True:
            self._take(Input.BEGAN, detail="looking for a place to live")
            reason = await self._live_once()
            self._take(Input.FAILED, detail=reason)
            self._logs.warning("ls.failed", reason=reason, pause_s=self._supervision.pause_s)
            self._on_loss(f"the language server has ended: {reason}")
            await asyncio.sleep(self._supervision.pause_s)

    async def _live_once(self) -> str:
        """Return why it is over."""
        lodging = None
        try:
            lodging = await self._settle()
            return await self._inhabit(lodging)
        except (ProfileFailed, NoLodging) as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or 'the start'}: {error.strerror or error}"
        finally:
            if lodging is not None:
                await forget_home(lodging, self._scout)

    @property
    def _scout(self) -> Path:
        return self._config.shared / "scout.py"

    async def _settle(self) -> Lodging:
        """Find out where it can live; see `services.lsrunner.probe`."""
        await self._await_mitm()
        self._take(Input.PROGRESSED, detail="looking for a place to live")
        for script in (_SCRIPTS / "guard.py", _SCRIPTS / "scout.py", SERVER_SCRIPT):
            publish(script, self._config.shared)
        account, problem = await find_account(self._settings.user)
        try:
            lodging = await self._lodging_of(account)
        except NoLodging as error:
            if not account.sudo:
                raise
            account, problem = current_account(), str(error)
            lodging = await self._lodging_of(account)
        if not account.sudo and self._environ.get("HOME"):
            lodging = dataclasses.replace(lodging, home=Path(self._environ["HOME"]))
        self._account, self._lodging, self._lodging_problem = account, lodging, problem
        for lack in self.missing():
            if lack.what != "language_server":  # it has not been started yet
                self._logs.warning("lodging.lacks", what=lack.what, detail=lack.detail)
        self._logs.info("lodging.found", user=account.user, uid=account.uid, way=lodging.way, home=str(lodging.home))
        return lodging

    async def _lodging_of(self, account: Account) -> Lodging:
        return await find_lodging(
            account,
            scout=self._scout,
            workspace=self._config.workspace,
            readable=(
                self._config.trust_bundle,
                self._config.authority_certificate,
                self._config.shared / "guard.py",
            ),
            mitm_port=self._config.mitm_port,
        )

    async def _await_mitm(self) -> None:
        """Wait for its files and its port: whichever way the traffic comes, without mitm there is none."""
        loop = asyncio.get_running_loop()
        while True:
            files = (self._config.trust_bundle, self._config.authority_certificate)
            awaited = [f"{path}, which mitm writes" for path in files if not path.is_file()]
            if not awaited and not await is_listening(self._config.mitm_port):
                awaited = [f"mitm at port {self._config.mitm_port}"]
            if not awaited:
                return
            detail = f"waiting for {awaited[0]}"
            if self._supervision.wake_at_s is not None and loop.time() >= self._supervision.wake_at_s:
                raise NoLodging(f"{detail}; not within {self._settings.start_timeout_s:g} s")
            if self._supervision.detail != detail:
                self._take(Input.PROGRESSED, detail=detail)
            await asyncio.sleep(_POLL_FOR_MITM_S)

    async def _inhabit(self, lodging: Lodging) -> str:
        """Start the program, wait until it is ready, and then until it is over; leave nothing running."""
        profile = self._build(self._place(lodging))
        launch = profile.launch()
        program = guarded(lodging, self._config.shared / "guard.py", launch.program, launch.keeps_stdin)
        environment = self._environment(lodging) | dict(launch.environment) | dict(self._settings.environment)
        process = await GuardedProcess.start(
            as_account(lodging.account, environment, program),
            keeps_stdin=launch.keeps_stdin,
            stdout_is_protocol=launch.stdout_is_protocol,
        )
        self._profile, self._process = profile, process
        self._logs.info(
            "child.started", outer_pid=process.outer_pid, program=launch.program[0], user=lodging.account.user
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(process.attend())
            try:
                return await self._watch(profile, process, lodging)
            finally:
                await self._clear(profile, process)

    async def _clear(self, profile: Profile, process: GuardedProcess) -> None:
        self._profile = None
        try:
            await profile.close()
        except Exception as error:
            self._logs.error("profile.failed", error=error)
        finally:
            await process.stop()
            self._process = None
            # Counts only: what a language server logs may quote prompts.
            seen = process.memory
            self._logs.info("child.exited", end=process.end, log_lines=seen.lines_seen, log_bytes=seen.bytes_seen)

    def _place(self, lodging: Lodging) -> Place:
        return Place(
            settings=self._settings,
            label=self.label,
            user=lodging.account.user,
            uid=lodging.account.uid,
            home=lodging.home,
            workspace=lodging.workspace,
            shared=self._config.shared,
            python=lodging.python,
            proxy=self._proxy if lodging.way is Way.CONNECT else None,
            version=VERSION,
        )

    @property
    def _proxy(self) -> str:
        return proxy_address(self._config.mitm_port, self.label)

    def _environment(self, lodging: Lodging) -> dict[str, str]:
        inherited = {} if lodging.account.sudo else inherited_variables(self._environ)
        path = SYSTEM_PATH if lodging.account.sudo else self._environ.get("PATH", SYSTEM_PATH)
        trust = trust_variables(self._config.trust_bundle, self._config.authority_certificate)
        proxy = proxy_variables(self._proxy) if lodging.way is Way.CONNECT else {}
        return inherited | account_variables(lodging, path) | trust | proxy

    async def _watch(self, profile: Profile, process: GuardedProcess, lodging: Lodging) -> str:
        """Return why the life of this process is over, be it that it must be ended."""
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(process.exited())
            readied = group.create_task(self._become_ready(profile, process))
            uncovered = group.create_task(self._watch_coverage(lodging))
            try:
                return await self._first_reason(process, ended, readied, uncovered)
            finally:
                for task in (ended, readied, uncovered):
                    task.cancel()

    async def _first_reason(
        self,
        process: GuardedProcess,
        ended: asyncio.Task[int],
        readied: asyncio.Task[str | None],
        uncovered: asyncio.Task[str],
    ) -> str:
        loop = asyncio.get_running_loop()
        waiting: set[asyncio.Task[int] | asyncio.Task[str | None] | asyncio.Task[str]] = {ended, readied, uncovered}
        while True:
            # The limit moves while someone signs in, so it is looked at again and again.
            await asyncio.wait(waiting, timeout=_POLL_S if readied in waiting else None, return_when="FIRST_COMPLETED")
            if ended.done():
                return self._end_of(process)
            if uncovered.done():
                return uncovered.result()
            if readied in waiting and readied.done():
                waiting.discard(readied)
                reason = readied.result()
                if reason is not None:
                    await asyncio.wait([ended], timeout=_LAST_WORDS_S)
                    return self._end_of(process) if ended.done() else reason
            limit = self._supervision.wake_at_s
            if limit is not None and loop.time() >= limit:
                awaited = f"; last: {self._supervision.detail}" if self._supervision.detail else ""
                return f"it was not ready within {self._settings.start_timeout_s:g} s{awaited}"

    def _end_of(self, process: GuardedProcess) -> str:
        if self._supervision.state is ServerState.READY:
            return process.end
        # Before it was ready it had no prompt that its log could quote.
        lines = [line for line in process.memory.tail().splitlines() if line and not line.startswith(GUARD_SAYS)]
        said = lines[-1].removeprefix("sudo: ")[:_SAID_LENGTH_MAX] if lines else ""
        return process.end if said in process.end else f"{process.end}; its last line: {said}"

    async def _become_ready(self, profile: Profile, process: GuardedProcess) -> str | None:
        """Return why it cannot become ready."""
        self._take(Input.PROGRESSED, detail="started, not ready yet")
        try:
            models = await profile.ready(process, self._report)
        except ProfileFailed as error:
            return str(error)
        except Exception as error:
            self._logs.error("profile.failed", error=error)
            return f"internal error in the profile {self._name}"
        if self._supervision.state in _STARTING:
            self._take(Input.BECAME_READY, models=models)
            self._logs.info("ls.became_ready", pid=process.pid, models=[model.id for model in models])
        return None

    def _report(self, state: ServerState, *, detail: str | None = None, login_url: str | None = None) -> None:
        if self._supervision.state not in _STARTING:
            return  # said too late to matter
        if state is ServerState.SIGNING_IN:
            self._take(Input.ASKED_TO_SIGN_IN, detail=detail or "waiting for a sign-in", login_url=login_url)
        else:
            self._take(Input.PROGRESSED, detail=detail)

    async def _watch_coverage(self, lodging: Lodging) -> str:
        """Return when the redirect has gone: what runs now would go past the meter."""
        while True:
            await asyncio.sleep(_COVERAGE_EVERY_S)
            if lodging.way is not Way.REDIRECT or not await is_listening(self._config.mitm_port):
                continue
            problem = await coverage(lodging.account, lodging.python, self._scout, self._config.mitm_port)
            # mitm may have gone in that very moment.
            if problem is not None and await is_listening(self._config.mitm_port):
                return f"its traffic is not covered any more: {problem}"

    async def answer(self, turn: Turn) -> TurnResult:
        """
        Answer one turn.

        Raises:
            TurnRefused: It will not be answered, or not to the end.
        """
        profile, process = self._profile, self._process
        if profile is None or process is None or self._supervision.state is not ServerState.READY:
            raise TurnRefused(
                FailureKind.NOT_READY, f"the language server is {self._supervision.state.replace('_', ' ')}"
            )
        try:
            return await profile.answer(turn)
        except (TurnRefused, ProfileFailed) as error:
            if isinstance(error, TurnRefused) and error.kind is not FailureKind.INTERNAL:
                raise
            raise TurnRefused(FailureKind.INTERNAL, await self._last_words(process, str(error))) from error

    async def _last_words(self, process: GuardedProcess, otherwise: str) -> str:
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await process.exited()
        except TimeoutError:
            return otherwise
        return f"the language server has ended in the middle of the turn: {process.end}"

    def _take(
        self,
        happened: Input,
        *,
        detail: str | None = None,
        login_url: str | None = None,
        models: tuple[OfferedModel, ...] = (),
    ) -> None:
        now_s = asyncio.get_running_loop().time()
        self._supervision.take(happened, now_s, detail=detail, login_url=login_url, models=models)
        self._on_change()
