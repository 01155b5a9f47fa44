"""Heartbeats on the bus."""

import pytest

from services.events.codec import EventInvalid, decode, encode, read_object
from services.events.lifecycle import LanguageServerState, Missing, OfferedModel, ProcessBeat, ServerState


def test_a_beat_says_what_is_missing() -> None:
    """A stable word and a sentence."""
    beat = ProcessBeat(
        process="mitm-0",
        pid=1,
        version="0.1.0",
        at="a",
        started_at="b",
        missing=(Missing(what="ledger", detail="the disk is full"),),
        facts={"connections": 5, "recording": False, "problem": None},
    )
    assert decode(ProcessBeat, encode(beat)) == beat
    assert read_object(encode(beat))["missing"] == [{"what": "ledger", "detail": "the disk is full"}]


def test_a_language_server_has_one_of_six_states() -> None:
    """And names its models."""
    state = LanguageServerState(
        at="a",
        state=ServerState.SIGNING_IN,
        profile="antigravity",
        label="antigravity",
        user="antigravity-ls",
        uid=998,
        models=(OfferedModel(id="gemini-3-flash", name="Gemini 3 Flash"),),
    )
    assert decode(LanguageServerState, encode(state)) == state
    with pytest.raises(EventInvalid, match="not one of stopped, starting, signing_in, ready, backing_off, stopping"):
        decode(LanguageServerState, read_object(encode(state)) | {"state": "asleep"})
