"""Regular expressions mean the same in every Python that Wiremeter runs on."""

import re
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "services"
# `(…)*+` and its kin; a possessive repeat of one character or class is fine.
POSSESSIVE_GROUP = re.compile(r"""\)(?:[*+?]|\{[0-9,%d]*\})\+(?=[^"']*["'])""")


@pytest.mark.parametrize(
    ("line", "is_one"),
    [('r"(?:a|b)*+"', True), ('r"(a){0,9}+"', True), ('r"[ab)]*+"', False), ('r"(?>(?:a)*)"', False)],
)
def test_a_possessive_repeat_of_a_group_is_known_by_its_looks(line: str, is_one: bool) -> None:
    """A class may hold a parenthesis."""
    assert bool(POSSESSIVE_GROUP.search(re.sub(r"\[[^\]]*\]", "x", line))) == is_one


def test_no_group_is_repeated_possessively() -> None:
    """Python before 3.11.5, Debian's for one, gets such repeats wrong (gh-106052); an atomic group means the same."""
    for module in SERVICES.rglob("*.py"):
        for number, line in enumerate(module.read_text().splitlines(), 1):
            code = re.sub(r"\[(?:\\.|[^\]\\])*\]", "x", line)
            assert not POSSESSIVE_GROUP.search(code), f"{module.relative_to(SERVICES)}:{number}"
