"""Real agents from npm under `wiremeter run`, against the provider stand-in: the ledger has what it sent."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.metered import Metered, metered, summary_of
from tests.support.npm import program_from_npm

pytestmark = [
    pytest.mark.go,
    pytest.mark.node,
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
CLAUDE_CODE, GEMINI_CLI, OPENCODE = "2.1.197", "0.61.0", "1.18.33"
PROMPT = "Say hi."


def claude() -> tuple[str, ...]:
    _, program = program_from_npm("@anthropic-ai/claude-code", CLAUDE_CODE)
    return program, "-p", PROMPT


def gemini() -> tuple[str, ...]:
    return *program_from_npm("@google/gemini-cli", GEMINI_CLI), "--skip-trust", "-p", PROMPT


def opencode() -> tuple[str, ...]:
    _, program = program_from_npm("opencode-ai", OPENCODE)
    return program, "run", "-m", "anthropic/claude-sonnet-4-5", PROMPT


AGENTS = {"claude": claude, "gemini": gemini, "opencode": opencode}


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
    return {"HOME": str(folder), **places, "ANTHROPIC_API_KEY": "sk-ant-test", "GEMINI_API_KEY": "test"}


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_is_metered_to_the_token(system: Metered, agent: str, tmp_path: Path) -> None:
    """All that it asks for one prompt, its small helpers' models included."""
    program = AGENTS[agent]()
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    before = len(system.provider.answers())
    done = system.run(*program, label=agent, environ=home_in(home), stdin="", cwd=work)
    assert done.returncode == 0, done.stderr
    found = summary_of(done)
    sent: Counter[str] = Counter()
    for answer in system.provider.answers(after=before):
        sent.update(answer["counts"])
    assert sent["input_tokens"] > 0
    assert found["is_complete"]
    assert found["totals"]["usage"] == dict(sent)
    assert {record["client"]["label"] for record in system.records_of(found["run"])} == {agent}
