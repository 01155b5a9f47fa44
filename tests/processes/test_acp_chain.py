"""A real agent over the Agent Client Protocol: `gemini --acp` from npm, redirected, metered, answered through 8741."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support.chain import LS_USER, Chain, chain
from tests.support.netns import Machine, why_unavailable
from tests.support.npm import program_from_npm

pytestmark = [
    pytest.mark.root,
    pytest.mark.go,
    pytest.mark.node,
    pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable())),
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
GEMINI = ("@google/gemini-cli", "0.61.0")
HOST = "generativelanguage.googleapis.com"
# Not "auto": that one asks a small model first which one to take, in a JSON that the stand-in does not know.
MODEL = "gemini-2.5-pro"


@pytest.fixture(scope="module")
def running() -> Iterator[Chain]:
    """The agent as the language server's user, with an API key where it looks for one."""
    node, script = program_from_npm(*GEMINI)
    modules = script[: script.index("/node_modules/")] + "/node_modules"
    with chain(
        profile="acp",
        command=["/run/ls/node", script.replace(modules, "/run/ls/node_modules"), "--acp"],
        programs={"/run/ls/node": shutil.which(node) or node, "/run/ls/node_modules": modules},
        settings={"WIREMETER_LSRUNNER_LABEL": "gemini"},
        prepare=sign_in,
    ) as started:
        yield started


def sign_in(machine: Machine) -> None:
    """Put an API key into the agent's own file; the stand-in takes any."""
    home = machine.path(f"/var/lib/{LS_USER}")
    folder = home / ".gemini"
    folder.mkdir(mode=0o700)
    (folder / ".env").write_text("GEMINI_API_KEY=not-a-real-key\n")
    machine.run(["chown", "-R", f"{LS_USER}:", f"/var/lib/{LS_USER}/.gemini"], check=True)


def test_a_real_agents_usage_is_exact(running: Chain) -> None:
    """What the provider sent is in the ledger and in `/v1/usage`, to the token."""
    answer = running.ask("Say something. [[say pong]]", MODEL)
    assert "pong" in answer["choices"][0]["message"]["content"]
    records = {record["response_id"]: record for record in running.records_of_all_answers()}
    sent = [each for each in running.provider.answers() if each["complete"] and each["response_id"]]
    assert sent
    for each in sent:
        record = records[each["response_id"]]
        assert record["usage"] == each["counts"]
        assert (record["host"], record["client"]["label"]) == (HOST, "gemini")
    total = running.report()["totals"]["usage"]
    assert total["input_tokens"] == sum(each["counts"]["input_tokens"] for each in sent)
    assert total["output_tokens"] == sum(each["counts"]["output_tokens"] for each in sent)


def test_the_conversation_goes_on(running: Chain) -> None:
    """A second prompt of the same conversation reaches the same session, and carries its own usage."""
    first = [{"role": "user", "content": "Remember seven. [[say seven]]"}]
    said = running.request("POST", "/v1/chat/completions", {"model": MODEL, "messages": first})["choices"][0]["message"]
    before = len(running.provider.answers())
    more = [*first, said, {"role": "user", "content": "What was it? [[say it was seven]]"}]
    answer = running.request("POST", "/v1/chat/completions", {"model": MODEL, "messages": more})
    assert "it was seven" in answer["choices"][0]["message"]["content"]
    calls = [call for call in running.provider.answers(after=before, at_least=1) if call["counts"]]
    assert answer["usage"]["prompt_tokens"] == sum(call["counts"]["input_tokens"] for call in calls)
