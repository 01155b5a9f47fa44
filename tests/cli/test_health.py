"""`wiremeter health`."""

from pathlib import Path
from typing import Any

import pytest

from services.cli.health import described, health
from services.cli.process import ProcessTree
from services.cli.upstream import Api
from tests.support.checkout import free_ports

FACTS: dict[str, Any] = {"connections": 1, "recording": True, "problem": None, "runs": {}, "is_odd": False}
FACTS["models"] = {"a": 1, "b": 0}
REPORT: dict[str, Any] = {
    "processes": [
        {"name": "accountant", "is_alive": True, "pid": 12, "facts": {}},
        {"name": "mitm-0", "is_alive": False, "pid": 3456, "facts": FACTS},
    ],
    "language_server": {"profile": "simulated", "state": "ready", "user": "me", "way": "connect"},
    "missing": [],
}


def test_each_process_has_a_line() -> None:
    """With what it told about itself, for people: `GET /health` has it for programs."""
    assert described(REPORT).splitlines() == [
        "accountant  alive   pid 12",
        "mitm-0      silent  pid 3456    connections=1 recording=yes problem=- runs=- is_odd=no models=a:1,b:0",
        "language server: simulated, ready, as me, traffic by connect",
        "nothing is missing",
    ]


def test_what_is_missing_comes_last() -> None:
    """In the words of who misses it."""
    missing = [{"what": "redirect", "detail": "lsrunner: no rule for the user"}]
    assert described(REPORT | {"missing": missing, "language_server": None}).splitlines()[-2:] == [
        "missing:",
        "  redirect: lsrunner: no rule for the user",
    ]


def test_nobody_there_is_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    """And how to start."""
    (port,) = free_ports(1)
    assert health(ProcessTree(Path("/nonexistent")), Api(port)) == 3
    assert "make run" in capsys.readouterr().err
