"""
What a start still waits for: supervisord's view and the processes' own view, made into one list.

A core. supervisord says who runs, `GET /health` who works; both are needed, a process that runs may still be deaf.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.cli.process import ProcessState
from services.runtime.settings import EXIT_CONFIG

# A language server that failed three times in a row will hardly start while somebody looks on.
_RESTARTS_IN_VAIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """
    Something that a start waits for.

    Attributes:
        process: The process whose log tells more.
        detail: For people.
        is_final: Waiting will not help.
    """

    process: str
    detail: str
    is_final: bool = False


def lacks(processes: Sequence[ProcessState], health: Mapping[str, Any] | None) -> list[Lack]:
    """
    List what is not there yet; empty when everything is.

    Args:
        processes: What supervisord says.
        health: The health report, None while nobody answers.
    """
    heard = {each["name"]: each["pid"] for each in (health or {}).get("processes", ()) if each["is_alive"]}
    if health is not None:
        heard.setdefault("frontproxy", None)  # it has just answered
    found = [lack for process in processes if (lack := _lack_of(process, heard))]
    return found or _lack_of_server((health or {}).get("language_server"))


def sign_in_address(health: Mapping[str, Any] | None) -> str | None:
    """Return where the language server waits for the user to sign in, None when it does not."""
    server = (health or {}).get("language_server") or {}
    return server.get("login_url") if server.get("state") == "signing_in" else None


def _lack_of(process: ProcessState, heard: Mapping[str, int | None]) -> Lack | None:
    name = process.name
    if process.is_down and process.exit_status == EXIT_CONFIG:
        return Lack(process=name, detail=f"{name} refuses its configuration (status {EXIT_CONFIG})", is_final=True)
    if process.is_down or process.state != "RUNNING":
        return Lack(process=name, detail=f"{name} is {process.state.lower()}")
    # What another pid says is said by its predecessor, or by another Wiremeter that holds our port.
    if name not in heard or heard[name] not in (process.pid, None):
        return Lack(process=name, detail=f"{name} is starting")
    return None


def _lack_of_server(server: Mapping[str, Any] | None) -> list[Lack]:
    if server is None:
        return [Lack(process="lsrunner", detail="nothing has been heard of the language server")]
    if server["state"] == "ready":
        return []
    detail = f"the language server is {str(server['state']).replace('_', ' ')}"
    if server.get("detail"):
        detail = f"{detail}: {server['detail']}"
    is_final = server["state"] == "backing_off" and server["restarts"] >= _RESTARTS_IN_VAIN
    return [Lack(process="lsrunner", detail=detail, is_final=is_final)]
