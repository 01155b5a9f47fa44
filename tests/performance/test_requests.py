"""What finding a request's model takes, counted in calls: it does not grow with what is in its strings."""

import json

import pytest

from services.dialects.request_body import MODEL, STREAM
from services.wire.json_members import JsonMemberReader
from tests.support.call_counts import calls_of

LONG = 5000


def calls_for(messages: list[object]) -> int:
    body = json.dumps({"model": "m", "messages": messages, "stream": True}).encode()
    reader = JsonMemberReader((MODEL, STREAM))
    calls = calls_of(lambda: reader.feed(body))
    assert reader.found == {MODEL: "m", STREAM: True}
    return calls


@pytest.mark.parametrize("text", ["\n", "\\n", '"', "{", "\u20ac"], ids=ascii)
def test_a_string_takes_no_call_for_what_is_in_it(text: str) -> None:
    """Requests have whole files in them, with thousands of line ends and quotes."""
    assert calls_for([text * LONG]) <= calls_for(["x" * LONG]) + 10


def test_a_tree_takes_no_call_for_its_leaves() -> None:
    """Most brackets have nothing but short strings and numbers in them."""
    leaf = {"type": "string", "maximum": 12}
    assert calls_for([[leaf] * 100]) <= calls_for([[leaf]])
