"""
Finds out where the language server can live: which user, which interpreter, which way to mitm.

Asks, in this order: does the user exist and does sudo let us run env as them; which Python can they execute, where is
their home, can they read the trust bundle; does a canary connection of theirs arrive at mitm. The first no decides:
without user or sudo it lives as the current user, without the redirect its traffic comes by CONNECT. Both are told.
"""

import asyncio
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.events.codec import EventInvalid, read_object
from services.events.lifecycle import Missing
from services.lsrunner.lodging import (
    SYSTEM_PATH,
    Account,
    CanaryAnswer,
    Lodging,
    Way,
    alone,
    as_account,
    coverage_problem,
    holds_connection,
    sudo_problem,
)
from services.lsrunner.process import ask, first_line_of
from services.lsrunner.scout import look

_ASK_TIMEOUT_S = 20.0
_CANARY_HOSTS = ("127.0.0.1", "::1")
_SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")
_SCOUT_ENVIRONMENT = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"}


class NoLodging(Exception):
    """The language server can live nowhere; the message is for people."""


def current_account() -> Account:
    """Return the user that we are."""
    return Account(user=pwd.getpwuid(os.geteuid()).pw_name, uid=os.geteuid(), sudo=False)


async def find_account(user: str) -> tuple[Account, str | None]:
    """Return the user to live as, and why it is not the one that was asked for."""
    here = current_account()
    if user in ("", here.user):
        return here, None
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return here, f"the user {user} does not exist"
    account = Account(user=user, uid=uid, sudo=True)
    try:
        answer = await ask(as_account(account, {}, ["true"]), _ASK_TIMEOUT_S)
    except FileNotFoundError:
        return here, "sudo is not installed"
    except (OSError, TimeoutError) as error:
        return here, f"sudo -u {user} failed ({error})"
    problem = sudo_problem(user, answer.status, answer.stderr)
    return (account, None) if problem is None else (here, problem)


async def find_lodging(
    account: Account, *, scout: Path, workspace: Path, readable: Sequence[Path], mitm_port: int
) -> Lodging:
    """
    Look at the machine as that user.

    Raises:
        NoLodging: No Python can be executed, or a file that must be readable is not.
    """
    if account.sudo:
        python, seen = await _look(account, scout, Path(".wiremeter", "workspace"), readable)
    else:
        # We can see that ourselves, with what executes us; and people wait for a start. The workspace is in the state
        # directory.
        python, seen = sys.executable, look(str(workspace), [str(path) for path in readable])
    unreadable = seen["unreadable"]
    if unreadable:
        raise NoLodging(f"{account.user} cannot read {', '.join(str(path) for path in _words(unreadable))}")
    missing: list[Missing] = []
    if seen["made_home"]:
        missing.append(Missing(what="home", detail=f"{account.user} has no home of its own; it got a passing one"))
    problem = await coverage(account, python, scout, mitm_port) if account.sudo else None
    if problem is not None:
        missing.append(Missing(what="redirect", detail=problem))
    return Lodging(
        account=account,
        way=Way.REDIRECT if account.sudo and problem is None else Way.CONNECT,
        python=python,
        home=Path(str(seen["home"])),
        workspace=Path(str(seen["workspace"])),
        made_home=bool(seen["made_home"]),
        missing=tuple(missing),
    )


async def _look(
    account: Account, scout: Path, workspace: Path, readable: Sequence[Path]
) -> tuple[str, Mapping[str, object]]:
    said = []
    for python in _SYSTEM_PYTHONS:
        program = [*alone(python), str(scout), "look", str(workspace), *map(str, readable)]
        try:
            answer = await ask(as_account(account, _SCOUT_ENVIRONMENT, program), _ASK_TIMEOUT_S)
            if answer.status == 0:
                return python, read_object(answer.stdout.encode())
            lines = answer.stderr.strip().splitlines()
            said.append(f"{python}: {lines[-1] if lines else f'status {answer.status}'}")
        except (OSError, TimeoutError, EventInvalid) as error:
            said.append(f"{python}: {error or 'no answer'}")
    raise NoLodging(f"{account.user} can execute no Python: {'; '.join(said)}")


def _words(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


async def coverage(account: Account, python: str, scout: Path, mitm_port: int) -> str | None:
    """Prove that the user's port 443 leads to mitm, in both families; say what is not proven."""
    program = [*alone(python), str(scout), "canary", *_CANARY_HOSTS]
    try:
        async with first_line_of(as_account(account, _SCOUT_ENVIRONMENT, program), _ASK_TIMEOUT_S) as line:
            answers = _canary_answers(line, _connection_tables(), mitm_port)
    except (OSError, TimeoutError, EventInvalid) as error:
        return f"the canary of {account.user} failed: {error or 'no answer'}"
    return coverage_problem(answers, _has_ipv6())


def _canary_answers(line: bytes, tables: Sequence[str], mitm_port: int) -> dict[str, CanaryAnswer]:
    answers = {}
    for host, found in read_object(line).items():
        if host == "schema" or not isinstance(found, dict):
            continue
        port = found.get("port")
        arrived = isinstance(port, int) and any(holds_connection(table, mitm_port, port) for table in tables)
        error = found.get("error")
        answers[host] = CanaryAnswer(
            arrived=arrived,
            error=str(error) if error else None,
            udp_refused=found.get("udp") == "refused",
        )
    return answers


def _connection_tables() -> list[str]:
    return [_text_of(Path("/proc/net/tcp")), _text_of(Path("/proc/net/tcp6"))]


def _has_ipv6() -> bool:
    return bool(_text_of(Path("/proc/net/if_inet6")))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""  # a kernel without IPv6


async def forget_home(lodging: Lodging, scout: Path) -> None:
    """Remove the passing home, if one was made."""
    if lodging.made_home:
        program = [*alone(lodging.python), str(scout), "forget", str(lodging.home)]
        try:
            await ask(as_account(lodging.account, _SCOUT_ENVIRONMENT, program), _ASK_TIMEOUT_S)
        except (OSError, TimeoutError):
            pass  # a directory of the other user's stays behind, private and almost empty


async def is_listening(port: int) -> bool:
    """Tell whether someone accepts connections on a port of ours."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), _ASK_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
