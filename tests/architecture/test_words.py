"""Words that do not belong in the project, and words that must be true."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from services.cli.arguments import parser
from services.cli.lines import heading
from tests.support.source import PROJECT, files

# Paths of one machine, talk of how the project is made, and where packages come from (that is the user's choice).
# Written in pieces, or this file would be the first to break the rule.
BANNED = [
    r"/(work|farm)" + "/",
    r"/tmp/" + r"(wm|bash_jobs)\b",
    r"/root/" + r"\.",
    r"\bissue" + r" \d",
    r"\bpypi\." + r"org|files\.python" + r"hosted|registry\.npm" + r"js",
]
DOCUMENTS = [path for path in files() if path.suffix == ".md"]


@pytest.mark.parametrize("path", files(), ids=str)
def test_no_file_speaks_of_the_machine_it_was_made_on(path: Path) -> None:
    """What is written here must be true everywhere."""
    try:
        text = (PROJECT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    assert [found[0] for word in BANNED for found in re.finditer(word, text)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    """Relative links, files and folders alike."""
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", (PROJECT / path).read_text())
    assert [target for target in targets if not (PROJECT / path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_files_named_in_documents_exist(path: Path) -> None:
    """`docs/…`, `services/…`, `scripts/…`, `tests/…` and `bench/…` in code font."""
    text = (PROJECT / path).read_text()
    named = re.findall(r"`((?:docs|services|scripts|tests|bench)/[\w./-]*\w)[`\s]", text)
    assert [name for name in named if not (PROJECT / name).exists()] == []


def commands(path: Path) -> list[str]:
    """Return the command lines of a document's shell blocks."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", (PROJECT / path).read_text(), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip() and line[0] != "#"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_commands_in_documents_exist(path: Path) -> None:
    """Targets of make, subcommands of wiremeter, scripts."""
    makefile = (PROJECT / "Makefile").read_text()
    actions = next(action for action in parser_actions() if action.choices)
    for line in commands(path):
        words = line.removeprefix("sudo ").split()
        if words[0] == "make" and len(words) > 1:
            target = next((word for word in words[1:] if "=" not in word), "help")
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), line
        elif words[0].endswith("wiremeter") and len(words) > 1:
            assert words[1] in actions.choices, line
        elif words[0].startswith("scripts/"):
            assert (PROJECT / words[0]).is_file(), line


def parser_actions() -> list[object]:
    from datetime import UTC, datetime

    return parser(datetime.now(UTC))._actions


def test_the_python_of_the_readme_is_python() -> None:
    """And the subscriber there is the ten lines that were promised."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
    assert min(len(block.strip().splitlines()) for block in blocks) <= 10


def test_the_readme_shows_the_heading_that_tail_prints() -> None:
    """Examples of output are of this version."""
    assert heading().split()[0] == "time"
    text = (PROJECT / "README.md").read_text()
    assert " ".join(heading().split()) in " ".join(text.split())


def test_every_dependency_has_a_reason() -> None:
    """docs/architecture.md names each that pyproject.toml asks for."""
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    text = (PROJECT / "docs" / "architecture.md").read_text()
    assert [name for line in wanted if (name := re.split(r"[<>=~!]", line)[0]) not in text] == []


def test_json_in_documents_is_json() -> None:
    """Examples that do not parse would be copied all the same."""
    for path in DOCUMENTS:
        for block in re.findall(r"```json\n(.*?)```", (PROJECT / path).read_text(), re.DOTALL):
            json.loads(block)
