"""Real agents from npm under `wiremeter run`, against the provider stand-in: the ledger has what it sent."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.metered import Metered, metered, summary_of
from tests.support.npm import program_from_npm

pytestmark = [
    pytest.mark.go,
    pytest.mark.node,
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
CLAUDE_CODE, CODEX, GEMINI_CLI, OPENCODE = "2.1.197", "0.169.0", "0.61.0", "1.18.33"
PROMPT = "Say hi."


def claude() -> tuple[str, ...]:
    _, program = program_from_npm("@anthropic-ai/claude-code", CLAUDE_CODE)
    return program, "-p", PROMPT


def codex() -> tuple[str, ...]:
    program = program_from_npm("@openai/codex", CODEX)
    return *program, "exec", "--skip-git-repo-check", "-m", "gpt-5.2-codex", PROMPT


def gemini() -> tuple[str, ...]:
    return *program_from_npm("@google/gemini-cli", GEMINI_CLI), "--skip-trust", "-p", PROMPT


def opencode(model: str = "anthropic/claude-sonnet-4-5") -> tuple[str, ...]:
    _, program = program_from_npm("opencode-ai", OPENCODE)
    return program, "run", "-m", model, PROMPT


# Each with the dialects that it speaks.
AGENTS: dict[str, tuple[Callable[[], tuple[str, ...]], set[str]]] = {
    "claude": (claude, {"anthropic-messages"}),
    "codex": (codex, {"openai-responses-ws"}),
    "gemini": (gemini, {"google-generate-content"}),
    "opencode": (opencode, {"anthropic-messages"}),
    "opencode-openai": (lambda: opencode("openai/gpt-5.2"), {"openai-responses"}),
}


@pytest.fixture(scope="module")
def system() -> Iterator[Metered]:
    with metered() as running:
        yield running


def home_in(folder: Path) -> dict[str, str]:
    """Make a home in which no agent has been before, with an API key for each."""
    (folder / ".gemini").mkdir()
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
    (folder / ".gemini" / "settings.json").write_text(json.dumps(settings))
    places = {f"XDG_{name}_HOME": str(folder / f".{name.lower()}") for name in ("CONFIG", "DATA", "CACHE", "STATE")}
    keys = {"ANTHROPIC_API_KEY": "sk-ant-test", "GEMINI_API_KEY": "test", "OPENAI_API_KEY": "sk-test"}
    return {"HOME": str(folder), **places, **keys, "CODEX_API_KEY": "sk-test"}


def ask(
    system: Metered, label: str, program: tuple[str, ...], folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run an agent for one prompt; return the stand-in's account and the ledger's records, whose sums are the same."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    before = len(system.provider.answers())
    done = system.run(*program, label=label, environ=home_in(home), stdin="", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "Tokens are counted where they cross the wire" in done.stdout
    found, answers = summary_of(done), system.provider.answers(after=before)
    sent: Counter[str] = Counter()
    for answer in answers:
        sent.update(answer["counts"])
    assert sent["input_tokens"] > 0
    assert found["is_complete"]
    assert found["totals"]["usage"] == dict(sent)
    records = sorted(system.records_of(found["run"]), key=lambda record: record["seq"])
    assert {record["client"]["label"] for record in records} == {label}
    return answers, records


def by_response(records: list[dict[str, Any]], counts: str) -> dict[str, dict[str, int]]:
    return {record["response_id"]: record[counts] for record in records}


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_is_metered_to_the_token(system: Metered, agent: str, tmp_path: Path) -> None:
    """All that it asks for one prompt, its small helpers' models included, and no record beside it."""
    program, dialects = AGENTS[agent]
    answers, records = ask(system, agent, program(), tmp_path)
    assert by_response(records, "usage") == by_response(answers, "counts")
    assert [record["outcome"] for record in records] == ["ok"] * len(answers)
    assert {record["dialect"] for record in records} == dialects


def test_what_codex_sends_to_warm_its_connection_up_is_no_response(system: Metered, tmp_path: Path) -> None:
    """It generates nothing and costs nothing: the prompt alone is on record."""
    before = len(system.provider.requests())
    _, records = ask(system, "codex", codex(), tmp_path)
    assert {"warm-up", "response.create"} <= {each["method"] for each in system.provider.requests(after=before)}
    assert [record["request_model"] for record in records] == ["gpt-5.2-codex"]


def test_codex_falls_back_to_https_and_is_metered_as_exactly(system: Metered, tmp_path: Path) -> None:
    """Its provider refuses the WebSocket: that is one error on record, and the answer comes by the other way."""
    system.provider.order(refuse_socket=426)
    try:
        answers, [refused, record] = ask(system, "codex", codex(), tmp_path)
    finally:
        system.provider.order()
    assert (refused["dialect"], refused["outcome"], refused["http_status"]) == ("openai-responses-ws", "error", 426)
    assert refused["usage"] == {}
    assert (record["dialect"], record["outcome"]) == ("openai-responses", "ok")
    assert by_response([record], "usage") == by_response(answers, "counts")
