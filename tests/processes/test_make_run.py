"""The first thing that a new user does: `make run`, a second `make run`, `make stop`. The whole chain, simulated."""

import getpass
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from services.cli.up import PROMPT
from services.cli.upstream import Api
from tests.support.checkout import Checkout, checkout, own_ports
from tests.support.eventually import eventually

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
# Starting five interpreters, keys and a language server on a busy machine.
_MAKE_TIMEOUT_S = 150.0


def make(copy: Checkout, target: str) -> subprocess.CompletedProcess[str]:
    """Run make with the virtual environment that runs these tests, as if it had just been installed."""
    return copy.command("make", "--old-file", ".venv/installed", target, timeout_s=_MAKE_TIMEOUT_S)


@pytest.fixture(scope="module")
def copy() -> Iterator[Checkout]:
    """A checkout whose language server is simulated and runs as the present user."""
    settings = {"WIREMETER_LSRUNNER_PROFILE": "simulated", "WIREMETER_LSRUNNER_USER": getpass.getuser()}
    with checkout(own_ports() | settings) as made:
        yield made


@pytest.fixture(scope="module")
def first(copy: Checkout) -> str:
    """What the first `make run` printed."""
    done = make(copy, "run")
    assert done.returncode == 0, done.stdout
    return done.stdout


def usage(copy: Checkout) -> dict[str, Any]:
    return Api(int(copy.environ["WIREMETER_FRONTPROXY_PORT"])).usage()


def test_it_ends_in_a_running_system_that_has_metered_an_exchange(copy: Checkout, first: str) -> None:
    """An answer, the usage by model, five processes, three commands to try."""
    assert "The language server is SIMULATED" in first
    (counts,) = re.findall(r"^\(by the wire(?:, \d+ calls)?: (\d+) tokens in, (\d+) out\)$", first, re.MULTILINE)
    row = next(line for line in first.splitlines() if line.startswith("all "))
    assert int(counts[0]) > 0 and int(counts[1]) > 0
    assert int(row.split()[1]) >= 1
    assert len(re.findall(r"^\S+ +RUNNING +pid", first, re.MULTILINE)) == 5
    port = copy.environ["WIREMETER_FRONTPROXY_PORT"]
    for line in (f"curl -s localhost:{port}/v1/usage | jq .", ".venv/bin/wiremeter tail", "make stop"):
        assert line in first


def test_what_it_shows_is_what_the_ledger_has(copy: Checkout, first: str) -> None:
    """The answer's usage, the HTTP report and the command agree."""
    (counts,) = re.findall(r"^\(by the wire(?:, \d+ calls)?: (\d+) tokens in, (\d+) out\)$", first, re.MULTILINE)
    totals = usage(copy)["totals"]
    # The language server also makes calls of its own, which no answer includes.
    assert totals["usage"]["input_tokens"] >= int(counts[0])
    assert totals["usage"]["output_tokens"] >= int(counts[1])
    told = json.loads(copy.python("-m", "services.cli", "usage", "--json").stdout)
    assert told["totals"] == totals


def test_a_second_one_finds_the_first(copy: Checkout, first: str) -> None:
    """It says so and sends no prompt."""
    before = usage(copy)["totals"]["requests"]
    second = make(copy, "run")
    assert second.returncode == 0, second.stdout
    assert "is running here already" in second.stdout
    assert len(re.findall(r"^\S+ +RUNNING +pid", second.stdout, re.MULTILINE)) == 5
    assert usage(copy)["totals"]["requests"] == before


def test_health_and_status_agree_that_all_is_well(copy: Checkout, first: str) -> None:
    """Every process is heard, the language server is ready."""
    shown = copy.python("-m", "services.cli", "health").stdout
    for name in ("accountant", "frontproxy", "lsrunner", "mitm-0", "mitm-1"):
        assert re.search(rf"^{name} +alive", shown, re.MULTILINE), shown
    assert "language server: simulated, ready" in shown
    status = copy.python("-m", "services.cli", "status")
    assert status.returncode == 0, status.stdout
    assert str(copy.home / "ledger.sqlite3") in status.stdout


def test_nothing_of_the_prompt_is_on_disk(copy: Checkout, first: str) -> None:
    """Neither in a log, nor in the ledger, nor in a journal."""
    written = [path for folder in (copy.home, copy.root / "run") for path in folder.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if PROMPT.encode() in path.read_bytes()] == []


def test_a_mistake_in_the_configuration_is_told_before_anything_is_touched(copy: Checkout, first: str) -> None:
    """All of them, with status 78, while the first goes on."""
    wrong = {"WIREMETER_MITM_PORT": "0", "WIREMETER_LSRUNNER_PROFILE": "x", "WIREMETER_MITM_PROT": "1"}
    other = Checkout(copy.root, {**own_ports(), **wrong})
    told = other.python("-m", "services.cli", "up")
    assert told.returncode == 78
    assert len(told.stdout.strip().splitlines()) == 3
    assert usage(copy)["totals"]["requests"] >= 1


def test_stop_leaves_no_process_and_no_socket(copy: Checkout, first: str) -> None:
    """Not even the language server's; the ledger stays, and answers without anything running."""
    stopped = make(copy, "stop")
    assert stopped.returncode == 0, stopped.stdout
    eventually("nothing runs", lambda: not copy.processes())
    assert [path.name for path in copy.root.rglob("*") if path.is_socket()] == []
    told = json.loads(copy.python("-m", "services.cli", "usage", "--json").stdout)
    assert told["totals"]["requests"] >= 1
    for command in ("status", "health", "tail"):
        silent = copy.python("-m", "services.cli", command)
        assert silent.returncode == 3, silent.stdout
        assert "make run" in silent.stdout
