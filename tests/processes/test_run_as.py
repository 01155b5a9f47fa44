"""`wiremeter run --as antigravity-ls`: a program that knows no proxy, metered by the redirect of its user."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chain import LS_USER, Chain, chain
from tests.support.go import built
from tests.support.netns import why_unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.go,
    pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable())),
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
LANGUAGE_SERVER = "/run/ls/language_server"
CLIENT = "/run/ls/go_client"
URL = "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-flash:streamGenerateContent?alt=sse"


@contextlib.contextmanager
def redirected(runner: str | None = None) -> Iterator[Chain]:
    """A machine with the redirect, whose language server is the redirected user's too."""
    with chain(
        profile="antigravity",
        command=[LANGUAGE_SERVER],
        programs={LANGUAGE_SERVER: built("antigravity"), CLIENT: built("go_client")},
        settings={"WIREMETER_LSRUNNER_TERMS_READ": "true"},
        runner=runner,
    ) as started:
        yield started


@pytest.fixture(scope="module")
def running() -> Iterator[Chain]:
    """Run by root."""
    with redirected() as started:
        yield started


def run_as(
    running: Chain,
    *program: str,
    options: tuple[str, ...] = ("--json",),
    user: str = LS_USER,
    runner: str | None = None,
) -> subprocess.CompletedProcess[str]:
    python = str(running.copy.root / ".venv" / "bin" / "python")
    return running.machine.run(
        [python, "-m", "services.cli", "run", "--label", "redirected", "--as", user, *options, "--", *program],
        user=runner,
        cwd=running.copy.root,
        env={**running.settings, "PATH": os.environ["PATH"]},
    )


def summary_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_redirected_program_is_metered_to_the_token(running: Chain) -> None:
    """As its own user, under its label, without a proxy; the language server's turns at the same time are not in it."""
    running.ask("Something else.")
    before = len(running.provider.answers())
    done = run_as(running, CLIENT, URL)
    assert done.returncode == 0, done.stderr
    found = summary_of(done)
    [answer] = running.provider.answers(after=before)
    assert (found["user"], found["is_complete"]) == (LS_USER, True)
    assert found["totals"]["usage"] == answer["counts"]
    [record] = [each for each in running.records() if each["client"]["run"] == found["run"]]
    who = record["client"]
    assert who["uid"] == int(running.machine.run(["id", "-u", LS_USER], check=True).stdout)
    assert (who["executable"], who["label"]) == ("go_client", "redirected")
    assert answer["remote"].rpartition(":")[0] != "127.0.0.1"


def test_it_runs_as_that_user_with_none_of_our_secrets(running: Chain) -> None:
    """Its environment stands on a command line: only terminal, language and path are ours."""
    done = run_as(running, "sh", "-c", "id -un; env", options=())
    user, *variables = done.stdout.splitlines()
    assert user == LS_USER
    names = {each.partition("=")[0] for each in variables}
    assert {"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "WIREMETER_RUN", "HOME"} <= names
    assert not [name for name in names if "PROXY" in name.upper() or name.startswith("WIREMETER_MITM")]


def test_the_exit_status_comes_through(running: Chain) -> None:
    """Also 128 + n, and what sudo and env say themselves."""
    assert run_as(running, "sh", "-c", "exit 7").returncode == 7
    assert run_as(running, "/run/ls/none").returncode == 127


def test_a_user_without_a_redirect_is_refused(running: Chain) -> None:
    """Nothing runs unmetered."""
    done = run_as(running, "id", user="daemon")
    assert done.returncode == 1
    assert "the redirect of daemon is not in place" in done.stderr and not done.stdout


def test_an_ordinary_users_wiremeter_counts_what_that_user_called() -> None:
    """It sees the user of a connection, not the process: time and user tell, and the summary says so."""
    with redirected(runner="developer") as running:
        before = len(running.provider.answers())
        found = summary_of(run_as(running, CLIENT, URL, runner="developer"))
        [answer] = running.provider.answers(after=before)
        assert found["totals"]["usage"] == answer["counts"]
        done = run_as(running, CLIENT, URL, runner="developer", options=())
        assert f"whatever else ran as {LS_USER} meanwhile" in done.stderr
