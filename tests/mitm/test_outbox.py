"""What mitm writes down for itself is a record again when it is needed as one."""

from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.bus.store import PastEpoch
from services.mitm.outbox import restored
from tests.support.data_path import HOST, data_path, events


def test_counts_that_stand_as_they_were_said_become_counts() -> None:
    """Of the dialect that the draft names; everything else stays."""
    usage = {
        "totalTokenCount": 9,
        "promptTokenCount": 4,
        "thoughtsTokenCount": 5,
        "cachedContentTokenCount": 2,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}],
        "trafficType": "ON_DEMAND",
    }
    draft = {"dialect": "google-cloudcode", "usage": [usage, 1.5], "response_model": "m"}
    assert restored(draft) == {
        "dialect": "google-cloudcode",
        "usage": {
            "input_tokens": 4,
            "output_tokens": 5,
            "cache_read_input_tokens": 2,
            "reasoning_output_tokens": 5,
            "total_tokens": 9,
            "text_input_tokens": 4,
            "consumed_credits": 1.5,
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


@pytest.mark.parametrize("said", [[9, 4, None, 5, 2, None], [9, None], [{}, "1"], [{}], []])
def test_counts_that_were_listed_otherwise_said_nothing(said: list[object]) -> None:
    """By a process of another version: what it left is restored at each start, and must not stop that."""
    assert restored({"dialect": "google-cloudcode", "usage": said, "model": "m"}) == {
        "dialect": "google-cloudcode",
        "usage": {},
        "model": "m",
    }


def only_record(left: PastEpoch) -> dict[str, Any]:
    left.scan()
    [record] = left.unfinished.read(1, 9, 1 << 20)
    found: dict[str, Any] = orjson.loads(record)
    return found


def test_a_stream_that_its_process_did_not_survive_has_its_last_counts(tmp_path: Path) -> None:
    """They stand in the journal as they were said, on disk before the client has seen them."""
    asked = b'{"model":"gemini-3"}'
    request = (
        f"POST /v1internal:streamGenerateContent?alt=sse HTTP/1.1\r\nhost: {HOST}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(asked)}\r\n\r\n"
    ).encode() + asked
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    with data_path(tmp_path) as path:
        path.client.send(request)
        path.await_bytes()
        path.dispatch()
        for piece in (head, *islice(events(), 3)):
            path.provider.send(piece)
            path.await_bytes()
            path.dispatch()
            assert path.client.read(len(piece)) == piece
        [epoch] = (tmp_path / "mitm-0").iterdir()
        said, record = (only_record(PastEpoch(epoch, restore)) for restore in (None, restored))
    assert said["usage"] == [{"promptTokenCount": 1234, "candidatesTokenCount": 3, "totalTokenCount": 1237}, None]
    assert (record["outcome"], record["response_model"]) == ("truncated", "gemini-3-flash")
    assert record["usage"] == {"input_tokens": 1234, "output_tokens": 3, "total_tokens": 1237}
