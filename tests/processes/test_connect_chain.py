"""The same chain without root: an ordinary user's Wiremeter, and a language server that comes through CONNECT."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chain import Chain, chain
from tests.support.eventually import eventually
from tests.support.go import built
from tests.support.netns import why_unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.go,
    pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable())),
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
DEVELOPER = "developer"
LANGUAGE_SERVER = "/run/ls/language_server"


@pytest.fixture(scope="module")
def running() -> Iterator[Chain]:
    """A machine on which nobody installed the redirect, and nobody but the developer runs anything."""
    with chain(
        profile="antigravity",
        command=[LANGUAGE_SERVER],
        programs={LANGUAGE_SERVER: built("antigravity")},
        settings={"WIREMETER_LSRUNNER_TERMS_READ": "true"},
        redirect=False,
        runner=DEVELOPER,
    ) as started:
        yield started


def test_usage_is_exact_without_root(running: Chain) -> None:
    """Every response is metered to the token, and labelled by the proxy credentials."""
    answer = running.ask("Say something.")
    assert answer["choices"][0]["message"]["content"]
    records = running.records_of_all_answers()
    metered = {record["response_id"]: record for record in records}
    sent = [each for each in running.provider.answers() if each["complete"]]
    assert sent
    for each in sent:
        assert metered[each["response_id"]]["usage"] == each["counts"]
        assert metered[each["response_id"]]["client"]["label"] == "antigravity"


def test_everything_runs_as_the_developer(running: Chain) -> None:
    """No process of ours has another user."""
    uid = int(running.machine.run(["id", "-u", DEVELOPER], check=True).stdout)
    for _, pid in running.status().values():
        assert os.stat(f"/proc/{pid}").st_uid == uid


def test_health_says_why_it_is_not_redirected(running: Chain) -> None:
    """Loudly: what does not honour HTTPS_PROXY would not be metered. It is said with the next heartbeat."""

    def health() -> dict[str, Any]:
        return running.request("GET", "/health")

    eventually("a word of the user", lambda: "user" in {missing["what"] for missing in health()["missing"]})
    assert health()["language_server"]["way"] == "connect"


def test_state_is_nobody_elses(running: Chain) -> None:
    """Directories 0700, files 0600, but for the public certificates."""
    public = {"ca-bundle.pem", "ca.pem"}
    for path in running.copy.home.rglob("*"):
        if "shared" not in path.relative_to(running.copy.home).parts[:-1]:
            assert path.lstat().st_mode & 0o077 == 0, path
    assert public <= {path.name for path in (running.copy.home / "shared").iterdir()}
