"""
A prompt enters at port 8741, a language server that runs as its own user answers it, its redirected traffic is metered.

The language server is the Go fake of the Antigravity hub (tests/fakes/antigravity), the provider the stand-in.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chain import LS_USER, Chain, chain
from tests.support.eventually import eventually
from tests.support.go import built
from tests.support.netns import PROVIDER, why_unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.go,
    pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable())),
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
LANGUAGE_SERVER = "/run/ls/language_server"
HOST = "daily-cloudcode-pa.googleapis.com"
# Takes more than a second to answer.
LONG = "Count. [[events 60]] [[delay 20ms]]"


@pytest.fixture(scope="module")
def running() -> Iterator[Chain]:
    """The chain with the redirect in place, and the terms of service read."""
    with chain(
        profile="antigravity",
        command=[LANGUAGE_SERVER],
        programs={LANGUAGE_SERVER: built("antigravity")},
        settings={"WIREMETER_LSRUNNER_TERMS_READ": "true"},
    ) as started:
        yield started


def counts_by_id(records: list[dict[str, Any]], member: str) -> dict[str, dict[str, int]]:
    return {record["response_id"]: dict(record[member]) for record in records if record["response_id"]}


def test_usage_is_exact_on_the_topic_in_the_ledger_and_over_http(running: Chain) -> None:
    """To the token, for every response that the provider sent."""
    with running.topic() as heard:
        # The topic does not wait for its subscribers: one that starts is there from some record on.
        eventually("the subscriber hears", lambda: running.ask("Say anything.") and heard())
        answer = running.ask("Say something.")
        assert answer["choices"][0]["message"]["content"]
        records = running.records_of_all_answers()
        sent = counts_by_id([each for each in running.provider.answers() if each["complete"]], "counts")
        assert sent
        metered = counts_by_id(records, "usage")
        assert {name: metered[name] for name in sent} == sent
        expected = {record["seq"] for record in records if record["turn_id"] and record["seq"] >= heard()[0]["seq"]}
        assert len(expected) > 1
        eventually("the topic says the same", lambda: expected <= {record["seq"] for record in heard()})
        assert all(record in records for record in heard())
    report = running.report()
    assert report["totals"]["usage"]["input_tokens"] == sum(counts["input_tokens"] for counts in metered.values())
    assert report["totals"]["usage"]["output_tokens"] == sum(counts["output_tokens"] for counts in metered.values())


def test_the_answer_carries_the_usage_of_its_own_turn(running: Chain) -> None:
    """Both calls of the turn, the model's and the checkpoint's, and nothing else."""
    before = len(running.provider.answers())
    answer = running.ask("Say something else.")
    calls = running.provider.answers(after=before, at_least=2)
    assert answer["usage"]["prompt_tokens"] == sum(call["counts"]["input_tokens"] for call in calls)
    assert answer["usage"]["completion_tokens"] == sum(call["counts"]["output_tokens"] for call in calls)


def test_records_name_the_language_server(running: Chain) -> None:
    """Its user, its process, its program and the profile's name."""
    running.ask("Who are you?")
    uid = int(running.machine.run(["id", "-u", LS_USER], check=True).stdout)
    for record in running.records_of_all_answers():
        assert record["client"]["uid"] == uid
        assert record["client"]["executable"] == "language_server"
        assert record["client"]["label"] == "antigravity"
        assert record["host"] == HOST


def test_other_endpoints_are_counted_by_name(running: Chain) -> None:
    """`loadCodeAssist` and its like spend nothing and are no usage records."""
    endpoints = {each["endpoint"] for each in running.report()["endpoints"]}
    assert {"loadCodeAssist", "fetchUserInfo", "fetchAvailableModels"} <= endpoints
    assert not [record for record in running.records() if record["outcome"] in ("unreadable", "no_usage")]


def test_a_client_that_hangs_up_cancels_the_turn_down_to_the_provider(running: Chain) -> None:
    """The language server breaks off its call; what was spent until then is a lower bound, and the next turn works."""
    before, recorded = len(running.provider.answers()), len(running.records_of_all_answers())
    asked = len(running.provider.requests())
    with asking_in_background(running, "Count. [[events 1500]] [[delay 20ms]]") as asking:
        wait_for_a_model_call(running, asked)
        asking.kill()
    [broken] = running.provider.answers(after=before, at_least=1)
    assert not broken["complete"]
    [record] = eventually("its record", lambda: running.records()[recorded:])
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "client")
    assert record["turn_id"]
    running.ask("Are you there?")


def test_another_users_port_443_is_untouched(running: Chain) -> None:
    """While a turn is metered it reaches the provider itself, whose certificate it sees, and leaves no trace."""
    bystander = running.machine.add_user("bystander")
    asked = len(running.provider.requests())
    authority = running.machine.path("/run/provider-ca.pem")
    shutil.copy2(running.provider.ca_file, authority)
    authority.chmod(0o644)
    with asking_in_background(running, LONG):
        wait_for_a_model_call(running, asked)
        done = running.machine.run(
            ["curl", "-sS", "-v", "--cacert", "/run/provider-ca.pem", "-d", "{}"]
            + [f"https://{HOST}/v1internal:fetchUserInfo"],
            user="bystander",
        )
    assert done.returncode == 0, done.stderr
    assert "Wiremeter local authority" not in done.stderr
    by_curl = [each for each in running.provider.requests(after=asked) if each["user_agent"].startswith("curl/")]
    assert len(by_curl) == 1
    assert bystander not in {record["client"]["uid"] for record in running.records_of_all_answers()}


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_both_families_are_redirected(running: Chain, family: str) -> None:
    """The language server's user meets our certificate over IPv4 and over IPv6, and is metered to the token."""
    uid = int(running.machine.run(["id", "-u", LS_USER], check=True).stdout)
    before = len(running.provider.answers())
    question = {"model": "gemini-3-flash", "request": {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}}
    done = running.machine.run(
        ["curl", family, "-sS", "-v", "--cacert", "/var/lib/wiremeter/root/ca-bundle.pem", "-d", json.dumps(question)]
        + [f"https://{HOST}/v1internal:streamGenerateContent?alt=sse"],
        user=LS_USER,
    )
    assert done.returncode == 0, done.stderr
    assert "Wiremeter local authority" in done.stderr
    assert f"Connected to {HOST} ({PROVIDER[0] if family == '-4' else PROVIDER[1]}) port 443" in done.stderr
    [sent] = running.provider.answers(after=before, at_least=1)
    [record] = [each for each in running.records_of_all_answers() if each["response_id"] == sent["response_id"]]
    assert record["usage"] == sent["counts"]
    assert (record["client"]["uid"], record["client"]["executable"]) == (uid, "curl")


@pytest.mark.parametrize(
    "victims",
    [["mitm-0"], ["mitm-1"], ["mitm-0", "mitm-1"], ["accountant"], ["frontproxy"], ["lsrunner"]],
    ids=" and ".join,
)
def test_killed_under_traffic_it_comes_back_and_nothing_is_lost(running: Chain, victims: list[str]) -> None:
    """kill -9 in the middle of an answer: all run again, no usage is lost or doubled, one language server is there."""
    killed = {name: running.status()[name] for name in victims}
    answered, recorded = len(running.provider.answers()), len(running.records_of_all_answers())
    asked = len(running.provider.requests())
    with asking_in_background(running, LONG):
        wait_for_a_model_call(running, asked)
        for _, pid in killed.values():
            os.kill(pid, signal.SIGKILL)
        running.wait_until_ready()
    status = running.status()
    assert all(state == "RUNNING" for state, _ in status.values())
    assert all(status[name] != before for name, before in killed.items())
    running.ask("Are you back?")

    def each_call_has_left_a_record() -> list[dict[str, Any]] | None:
        found = running.records_of_all_answers()
        return found if len(found) - recorded >= len(running.provider.answers(after=answered)) else None

    records = eventually("a record of each call", each_call_has_left_a_record)
    ids = [record["response_id"] for record in records if record["response_id"]]
    assert len(ids) == len(set(ids))
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    metered = counts_by_id(records, "usage")
    for answer in running.provider.answers(after=answered):
        if answer["complete"]:
            assert metered[answer["response_id"]] == answer["counts"]
    broken = {(each["outcome"], each["aborted_by"], each["reason"]) for each in records[recorded:]}
    if len(victims) == 2:  # one of the two carried it
        assert ("truncated", "proxy", "the proxy was killed in the middle of it") in broken
    servers = language_servers(running)
    assert len(servers) == 1, servers


def test_the_language_server_goes_with_its_runner(running: Chain) -> None:
    """A killed lsrunner leaves no orphan: the next one starts its own."""
    [before] = language_servers(running)
    os.kill(running.status()["lsrunner"][1], signal.SIGKILL)
    eventually("the old one is gone", lambda: not os.path.exists(f"/proc/{before}"), timeout_s=20)
    [after] = eventually("another one runs", lambda: language_servers(running), timeout_s=30)
    assert after != before
    running.wait_until_ready()


def language_servers(running: Chain) -> list[int]:
    """Return the processes that run the language server's program."""
    shown = running.machine.run(["pgrep", "-u", LS_USER, "-x", "language_server"]).stdout
    return [int(line) for line in shown.split()]


def wait_for_a_model_call(running: Chain, after: int) -> None:
    """Wait until the provider has been asked for an answer, after its request of that number."""

    def called() -> bool:
        return any("enerateContent" in each["path"] for each in running.provider.requests(after=after))

    eventually("a model call", called)


@contextlib.contextmanager
def asking_in_background(running: Chain, prompt: str) -> Iterator[subprocess.Popen[Any]]:
    """Ask in another process, whose fate does not matter: the chain is being broken on purpose."""
    question = {"model": running.models()[0], "stream": True, "messages": [{"role": "user", "content": prompt}]}
    asking = running.machine.popen(
        ["curl", "-sS", "-N", "-m", "30", "-H", "Content-Type: application/json", "-d", json.dumps(question)]
        + ["http://127.0.0.1:8741/v1/chat/completions"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield asking
    finally:
        asking.wait(timeout=60)
