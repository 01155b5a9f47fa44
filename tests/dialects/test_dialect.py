"""The terms of the stage are values: equal when they say the same, and fixed once said."""

import dataclasses

import pytest

from services.dialects.dialect import Call, CallKind, RequestFacts


def test_a_call_cannot_be_changed() -> None:
    call = Call(kind=CallKind.UNKNOWN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        call.kind = CallKind.OTHER  # type: ignore[misc]


def test_a_request_of_which_nothing_is_known_says_nothing() -> None:
    assert RequestFacts() == RequestFacts(model=None, stream=None, include_usage=None, conversation_id=None)
