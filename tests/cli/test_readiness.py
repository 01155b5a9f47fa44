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
    return {"processes": [{"name": n, "pid": 1, "is_alive": n in alive} for n in NAMES], "language_server": server}


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
    server = {"state": "backing_off", "detail": "no such program", "restarts": 0}
    (starting,) = lacks(ALL, health(*NAMES, server=server))
    assert (starting.process, starting.detail) == ("lsrunner", "the language server is backing off: no such program")
    assert not starting.is_final
    (unheard,) = lacks(ALL, health(*NAMES))
    assert unheard.detail == "nothing has been heard of the language server"


def test_a_language_server_that_fails_again_and_again_ends_the_waiting() -> None:
    """With its third failure; while it tries once more there is hope."""
    failing = {"state": "backing_off", "detail": "it ended with status 1", "restarts": 2}
    (lack,) = lacks(ALL, health(*NAMES, server=failing))
    assert lack.is_final
    (lack,) = lacks(ALL, health(*NAMES, server=failing | {"state": "starting"}))
    assert not lack.is_final


def test_what_another_process_says_is_no_word_of_ours() -> None:
    """A predecessor's last heartbeat, or another Wiremeter's whole report."""
    others = health(*NAMES, server=READY)
    for each in others["processes"]:
        each["pid"] = 2
    assert details(lacks(ALL, others)) == [f"{name} is starting" for name in NAMES]


def test_a_sign_in_is_for_the_user_to_do() -> None:
    """The address is shown instead of waiting for it."""
    assert sign_in_address(health(server={"state": "signing_in", "login_url": "https://x.invalid/"})) == (
        "https://x.invalid/"
    )
    assert sign_in_address(health(server=READY | {"login_url": "https://x.invalid/"})) is None
    assert sign_in_address(None) is None
