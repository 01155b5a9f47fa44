"""
`wiremeter run`: any program, metered, and what it used.

Without root it goes through CONNECT, by the variables that its runtime honours; with `--as USER` it runs as the user
whose port 443 is redirected. Its terminal, its signals and its exit status are its own (services.cli.foreground).

Its records are found by the id of the run, which travels in the proxy credentials; mitm reads it from the environment
of processes that have lost those. A process of another user is invisible to a mitm that is not root's: then everything
counts that invisible processes of this user called meanwhile.
"""

import contextlib
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import orjson

from services.cli.foreground import NotStarted, end_like, located, run_in_foreground
from services.cli.process import ProcessTree, problem_once_started, wait_until
from services.cli.status import NOT_RUNNING, what_to_do
from services.cli.summary import Run, as_object, as_text
from services.cli.upstream import Api, ApiUnreachable
from services.events.identity import RANDOM_BYTES, UlidSource
from services.ledger.store import LedgerReader, LedgerUnusable
from services.runtime.environment import (
    LABEL_LETTERS_MAX,
    NAME_VARIABLE,
    foreign_proxy,
    java_variables,
    proxy_address,
    proxy_variables,
    redirected_variables,
    trust_variables,
)
from services.runtime.settings import CHECKOUT, Settings
from services.runtime.state import StateDirectory

# From the program's end: a heartbeat comes once a second, a record is in the ledger some milliseconds after its end.
_SETTLE_S = 3.0
_STATUS_TIMEOUT_S = 30.0
_SUDO = "/usr/bin/sudo"
_ENV = "/usr/bin/env"


class Refused(Exception):
    """The program is not started; the message is for people."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What the user asked for.

    Attributes:
        program: With its arguments.
        label: None takes the program's name.
        user: Whose redirect to go by; None goes through CONNECT.
        as_json: The summary is for scripts, on standard output unless `output` says otherwise.
        output: File for the summary, `-` is standard output; None is standard error, or with `as_json` see there.
    """

    program: Sequence[str]
    label: str | None = None
    user: str | None = None
    as_json: bool = False
    output: str | None = None


def run(
    order: Order, settings: Settings, state: StateDirectory, tree: ProcessTree, api: Api, environ: Mapping[str, str]
) -> int:
    """Run the program and print what it used; return its exit status, or end by the signal that ended it."""
    started_at = datetime.now(UTC)
    run_id = UlidSource(os.urandom(RANDOM_BYTES)).make(int(started_at.timestamp() * 1000))
    name = os.path.basename(order.program[0])
    label = order.label or name.replace(":", "_")[:LABEL_LETTERS_MAX]
    try:
        _check_processes(tree, api)
        _check(settings, state, environ, order.user)
        given = _given(state, settings.mitm.port, label, run_id, environ, order.user)
        path, arguments = _command(order, given, environ)
    except (Refused, NotStarted) as error:
        print(f"wiremeter: {error}", file=sys.stderr)
        return error.status
    with contextlib.ExitStack() as stack:
        try:
            output = stack.enter_context(_open(order))
            end = run_in_foreground(path, arguments, {**environ, **given} if order.user is None else environ)
        except (OSError, NotStarted) as error:
            print(f"wiremeter: {error}", file=sys.stderr)
            return error.status if isinstance(error, NotStarted) else 1
        ended_at = datetime.now(UTC)
        finished = Run(
            run=run_id,
            label=label,
            program=name,
            user=order.user,
            started_at=started_at,
            ended_at=ended_at,
            end=end,
            under_way=_settle(api, run_id, ended_at),
        )
        _tell(output, finished, state.ledger, as_json=order.as_json)
    return end_like(end)


# -- before it ---------------------------------------------------------------


def _check_processes(tree: ProcessTree, api: Api) -> None:
    """
    See that those run who meter; nothing is started otherwise.

    Raises:
        Refused: One does not.
    """
    problem = problem_once_started(tree, lambda: _problem_with(tree, api))
    if problem is not None:
        raise Refused(problem, NOT_RUNNING)


def _problem_with(tree: ProcessTree, api: Api) -> str | None:
    try:
        processes = api.health()["processes"]
    except ApiUnreachable as error:
        return f"{error}\n{what_to_do(tree)}"
    alive = {each["name"].partition("-")[0] for each in processes if each["is_alive"]}
    for role in ("mitm", "accountant"):
        if role not in alive:
            return f"{role} is not running, so nothing would be metered; `wiremeter health` tells more"
    return None


def _check(settings: Settings, state: StateDirectory, environ: Mapping[str, str], user: str | None) -> None:
    """
    See that everything else is there, too.

    Raises:
        Refused: Something is not.
    """
    for path in (state.trust_bundle, state.authority_certificate):
        if not path.is_file():
            raise Refused(f"{path} is missing, so the program would not trust the proxy; mitm writes it when it starts")
    if user is not None:
        _check_redirect(user)
        return
    foreign = foreign_proxy(environ, settings.mitm.port)
    if foreign is not None:
        raise Refused(
            f"{foreign} names a proxy, which Wiremeter does not use on its way to the provider. If it may go there"
            f" directly: env -u {foreign} wiremeter run …"
        )


def _check_redirect(user: str) -> None:
    script = CHECKOUT / "scripts" / "mitm-redirect.sh"
    command = [str(script), "status", "--json", "--user", user]
    how = f"sudo {script} install --user {user}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STATUS_TIMEOUT_S, check=False)
        parts = json.loads(done.stdout)["parts"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise Refused(f"{script} status failed: {error}") from error
    missing = [each["part"] for each in parts if each["state"] == "MISSING"]
    if missing:
        raise Refused(f"the redirect of {user} is not in place ({', '.join(missing)}); make it with: {how}")


def _given(
    state: StateDirectory, port: int, label: str, run_id: str, environ: Mapping[str, str], user: str | None
) -> dict[str, str]:
    """Return the variables that make the difference; for another user, all there are."""
    trust = trust_variables(state.trust_bundle, state.authority_certificate)
    named = {NAME_VARIABLE: f"{label}:{run_id}"}
    if user is None:
        java = java_variables(state.trust_store, port, environ.get("JAVA_TOOL_OPTIONS", ""))
        return {**trust, **java, **named, **proxy_variables(proxy_address(port, label, run_id))}
    home = pwd.getpwnam(user).pw_dir
    if not os.path.isdir(home):
        home = f"/var/lib/{user}"  # what mitm-redirect.sh makes for a user without one
    return {**redirected_variables(environ, home, user), **trust, **java_variables(state.trust_store, None), **named}


def _command(order: Order, given: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, list[str]]:
    path = located(order.program[0], environ.get("PATH"))
    if order.user is None:
        return path, list(order.program)
    assigned = (f"{name}={value}" for name, value in given.items())
    return _SUDO, [_SUDO, "-n", "-u", order.user, "--", _ENV, *assigned, path, *order.program[1:]]


def _open(order: Order) -> contextlib.AbstractContextManager[TextIO]:
    """Open the summary's file before the program runs: a mistake shall not cost its work."""
    place = order.output or ("-" if order.as_json else None)
    if place is None or place == "-":
        return contextlib.nullcontext(sys.stderr if place is None else sys.stdout)
    return Path(place).open("w")


# -- after it ----------------------------------------------------------------


def _settle(api: Api, run_id: str, ended_at: datetime) -> int | None:
    """Wait, with a limit, until every mitm has said that nothing of the run is under way; return what still is."""
    under_way: int | None = None

    def is_over() -> bool:
        nonlocal under_way
        with contextlib.suppress(ApiUnreachable):
            beats = [each for each in api.health()["processes"] if each["name"].partition("-")[0] == "mitm"]
            alive = [each for each in beats if each["is_alive"]]
            if alive and all(datetime.fromisoformat(each["last_seen"]) > ended_at for each in alive):
                under_way = sum((each["facts"].get("runs") or {}).get(run_id, 0) for each in alive)
                return under_way == 0 and not any(each["facts"].get("unacknowledged") for each in alive)
        return False

    with contextlib.suppress(KeyboardInterrupt):  # the user does not want to wait
        wait_until(is_over, _SETTLE_S)
    return under_way


def _tell(output: TextIO, finished: Run, ledger: Path, *, as_json: bool) -> None:
    uid = None if finished.user is None else pwd.getpwnam(finished.user).pw_uid
    try:
        with closing(LedgerReader(ledger)) as reader:
            report: dict[str, Any] = reader.run_report(finished.run, finished.started_at, uid)
    except LedgerUnusable as error:
        print(f"wiremeter: {error}", file=sys.stderr)
        return
    told = orjson.dumps(as_object(finished, report)).decode() if as_json else as_text(finished, report)
    with contextlib.suppress(BrokenPipeError):
        # The program's own last line may be an open one.
        print(f"\n{told}" if output is sys.stdout else told, file=output, flush=True)
