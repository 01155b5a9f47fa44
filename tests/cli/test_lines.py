"""Usage records, a line each."""

import time
from typing import Any

import pytest

from services.cli.lines import heading, line

RECORD: dict[str, Any] = {
    "schema": "wiremeter.usage/1",
    "at": "2026-11-23T17:40:11.123456Z",
    "model": "gemini-3-flash",
    "outcome": "ok",
    "http_status": 200,
    "usage": {"input_tokens": 1514, "output_tokens": 77, "reasoning_output_tokens": 52},
    "timing": {"started_at": "2026-11-23T17:40:09Z", "duration_ms": 1830.2},
    "client": {"uid": 998, "executable": "language_server", "label": "antigravity"},
}


def cells(record: dict[str, Any]) -> dict[str, str]:
    return dict(zip(heading().split(), line(record).split(), strict=True))


def test_a_line_says_what_people_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In columns under their headings."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert heading() == (
        "time      model                         outcome             in     cached       out  reasoning"
        "        ms  client"
    )
    assert line(RECORD) == (
        "17:40:11  gemini-3-flash                ok               1,514          -        77         52"
        "     1,830  antigravity"
    )


def test_unknown_is_a_dash_and_none_is_zero() -> None:
    """Absent means that nobody said."""
    found = cells(RECORD | {"usage": {"input_tokens": 0}, "timing": {}, "client": {}, "model": None})
    assert (found["in"], found["out"], found["ms"], found["client"], found["model"]) == ("0", "-", "-", "-", "unknown")


def test_a_client_without_a_label_goes_by_its_program() -> None:
    """The label is the user's own word and comes first."""
    assert cells(RECORD)["client"] == "antigravity"
    assert cells(RECORD | {"client": {"executable": "node", "label": None}})["client"] == "node"


def test_errors_show_their_status_and_bounds_a_sign() -> None:
    """A broken-off answer's counts are a lower bound."""
    assert "error 429" in line(RECORD | {"outcome": "error", "http_status": 429})
    assert "≥ truncated" in line(RECORD | {"outcome": "truncated"})
