"""What a start still waits for."""

from pathlib import Path
from typing import Any

from services.cli.process import ProcessState
from services.cli.readiness import lacks, sign_in_address

NAMES = ("accountant", "mitm-0", "mitm-1", "lsrunner", "frontproxy")


def process(name: str, state: str = "RUNNING", *, exit_status: int = 0) -> ProcessState:
    return ProcessState(
        name=name, state=state, is_down=state != "RUNNING", pid=1, exit_status=exit_status, log=Path(f"{name}.log")
    )


def health(*alive: str, server: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"processes": [{"name": n, "is_alive": n in alive} for n in NAMES], "language_server": server}


READY = {"state": "ready", "detail": None}
ALL = [process(name) for name in NAMES]


def details(found: list[Any]) -> list[str]:
    return [lack.detail for lack in found]


def test_nothing_is_lacking_when_all_work_and_the_language_server_is_ready() -> None:
    """supervisord and the processes themselves agree."""
    assert lacks(ALL, health(*NAMES, server=READY)) == []


def test_a_process_that_runs_but_is_not_heard_is_starting() -> None:
    """Running is not working."""
    assert details(lacks(ALL, health("accountant", "mitm-0", "lsrunner", server=READY))) == ["mitm-1 is starting"]


def test_before_anybody_answers_everything_is_starting() -> None:
    """No health report at all."""
    assert details(lacks(ALL, None)) == [f"{name} is starting" for name in NAMES]


def test_frontproxy_works_when_it_answers() -> None:
    """It need not hear itself."""
    assert lacks(ALL, health("accountant", "mitm-0", "mitm-1", "lsrunner", server=READY)) == []


def test_a_refused_configuration_ends_the_waiting() -> None:
    """Status 78 is final, any other end is not: supervisord starts that process again."""
    (final,) = lacks([process("mitm-0", "EXITED", exit_status=78)], None)
    (passing,) = lacks([process("mitm-0", "EXITED", exit_status=1)], None)
    assert (final.is_final, passing.is_final) == (True, False)
    assert final.detail == "mitm-0 refuses its configuration (status 78)"


def test_the_language_server_comes_last() -> None:
    """Its state and reason, with the process whose log tells more."""
    (starting,) = lacks(ALL, health(*NAMES, server={"state": "backing_off", "detail": "no such program"}))
    assert (starting.process, starting.detail) == ("lsrunner", "the language server is backing off: no such program")
    (unheard,) = lacks(ALL, health(*NAMES))
    assert unheard.detail == "nothing has been heard of the language server"


def test_a_sign_in_is_for_the_user_to_do() -> None:
    """The address is shown instead of waiting for it."""
    assert sign_in_address(health(server={"state": "signing_in", "login_url": "https://x.invalid/"})) == (
        "https://x.invalid/"
    )
    assert sign_in_address(health(server=READY | {"login_url": "https://x.invalid/"})) is None
    assert sign_in_address(None) is None
