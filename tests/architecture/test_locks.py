"""Two installs are the same."""

import re
import tomllib
from typing import Any

import pytest

from tests.support.source import PROJECT

LOCKS = ("requirements.lock", "requirements-dev.lock")


def locked(name: str) -> dict[str, str]:
    """Return the versions of a lock by package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / name).read_text(), re.MULTILINE))


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return table


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_has_an_exact_version_and_hashes(name: str) -> None:
    """And says nothing about where files come from."""
    text = re.sub(r"^#.*\n", "", (PROJECT / name).read_text(), flags=re.MULTILINE)
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[\w.-]+==\S+( ; .*)?( \\\n    --hash=sha256:[0-9a-f]{64})+$", entry), entry[:100]


def test_the_locks_agree() -> None:
    """What the tests run on is what runs."""
    runtime, dev = (locked(name) for name in LOCKS)
    assert runtime.items() <= dev.items()


def test_the_locks_have_what_the_project_asks_for() -> None:
    """A dependency that is not locked would not be installed."""
    name_of = re.compile(r"[\w-]+").match
    base = {found[0] for line in project()["dependencies"] if (found := name_of(line))}
    dev = {found[0] for line in project()["optional-dependencies"]["dev"] if (found := name_of(line))}
    assert base | {"setuptools"} <= set(locked(LOCKS[0]))
    assert dev <= set(locked(LOCKS[1]))
    assert not dev & set(locked(LOCKS[0]))
