"""Turns on the bus."""

import pytest

from services.events.codec import EventInvalid, decode, encode
from services.events.turn import Message, Role, TurnDelta, TurnRequested


def test_a_conversation_keeps_its_order_and_roles() -> None:
    """The new prompt is last."""
    messages = tuple(
        Message(role=role, text=role.value) for role in (Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER)
    )
    asked = TurnRequested(turn_id="t", model=None, messages=messages, deadline_s=5)
    assert decode(TurnRequested, encode(asked)).messages == messages


def test_a_role_that_there_is_not_is_refused() -> None:
    """With those that there are."""
    asked = {"schema": "wiremeter.turn-request/1", "turn_id": "t", "model": "m", "deadline_s": 1}
    messages = {"messages": [{"role": "tool", "text": ""}]}
    with pytest.raises(EventInvalid, match="not one of system, user, assistant"):
        decode(TurnRequested, asked | messages)


def test_a_delta_of_an_unknown_kind_is_refused() -> None:
    """Its text would end up in the wrong place."""
    delta = b'{"schema":"wiremeter.turn-delta/1","turn_id":"t","number":1,"kind":"song","text":"x"}'
    with pytest.raises(EventInvalid, match="not one of text, thinking, tool"):
        decode(TurnDelta, delta)
