"""The counts and outcomes that records are made of."""

import re

from services.events.usage import COUNT_MEANING, WHOLE_COUNTS, Outcome, ResponseUsage


def test_every_count_is_explained_and_has_a_flat_name() -> None:
    """No dots, no prefix of the specification."""
    assert all(re.fullmatch(r"[a-z0-9_]+", name) and meaning for name, meaning in COUNT_MEANING.items())
    assert not any(name.startswith(("gen_ai", "ext")) for name in COUNT_MEANING)


def test_parts_are_parts_of_counts_that_there_are() -> None:
    """What stands after "part of" is a count, and the last of them a whole one."""
    for name, meaning in COUNT_MEANING.items():
        part = re.match(r"part of (\w+):", meaning)
        while part:
            assert part[1] in COUNT_MEANING, name
            meaning = COUNT_MEANING[part[1]]
            last, part = part[1], re.match(r"part of (\w+):", meaning)
            assert part or last in WHOLE_COUNTS, name


def test_absent_is_not_zero() -> None:
    """A response that said nothing has no counts."""
    assert ResponseUsage(outcome=Outcome.NO_USAGE, operation="chat").counts == {}


def test_outcomes_are_words_of_the_schema() -> None:
    """Exactly these six (docs/events.md)."""
    assert [each.value for each in Outcome] == ["ok", "blocked", "error", "truncated", "no_usage", "unreadable"]
