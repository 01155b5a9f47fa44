"""What mitm writes down for itself is a record again when it is needed as one."""

import pytest

from services.mitm.outbox import restored


def test_counts_that_stand_as_they_were_said_become_counts() -> None:
    """Of the dialect that the draft names; everything else stays."""
    draft = {"dialect": "google-cloudcode", "usage": [9, 4, None, 5, 2, None], "response_model": "m"}
    assert restored(draft) == {
        "dialect": "google-cloudcode",
        "usage": {
            "input_tokens": 4,
            "output_tokens": 5,
            "cache_read_input_tokens": 2,
            "reasoning_output_tokens": 5,
            "total_tokens": 9,
        },
        "response_model": "m",
    }


def test_a_draft_with_counts_stays_as_it_is() -> None:
    """As most dialects write it."""
    draft = {"dialect": "anthropic-messages", "usage": {"input_tokens": 4}}
    assert restored(draft) == draft


def test_a_dialect_that_is_not_known_any_more_said_nothing() -> None:
    """A journal may be older or newer than who reads it."""
    assert restored({"dialect": "forgotten", "usage": [1]})["usage"] == {}


@pytest.mark.parametrize("said", [[9, 4, None, 5, 2], [9, 4, None, 5, 2, None, 3], []])
def test_counts_that_were_listed_otherwise_said_nothing(said: list[object]) -> None:
    """By a process that knew fewer of them, or more: what it left is restored at each start, and must not stop that."""
    assert restored({"dialect": "google-cloudcode", "usage": said, "model": "m"}) == {
        "dialect": "google-cloudcode",
        "usage": {},
        "model": "m",
    }
