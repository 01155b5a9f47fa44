"""What every surface promises; a new one is added to the list."""

import json

import pytest

from services.events.turn import DeltaKind, Message, Role, StopReason, TurnDelta
from services.frontproxy.bodies import Members
from services.frontproxy.joining import TurnUsage
from services.frontproxy.openai_chat import OpenAIChat
from services.frontproxy.refusal import Refused
from services.frontproxy.surfaces import Asked, Surface

SURFACES: list[Surface] = [OpenAIChat()]
ASKED = Asked(
    model="model-a", messages=(Message(role=Role.USER, text="hi"),), streams=True, wants_usage=True, ignored=()
)
UNKNOWN = TurnUsage(calls=0, counts={}, by_model=(), complete=False)
DELTA = TurnDelta(turn_id="t1", number=1, kind=DeltaKind.TEXT, text="hello")


@pytest.mark.parametrize("surface", SURFACES, ids=lambda each: each.path)
def test_an_empty_request_is_refused_in_the_surfaces_own_shape(surface: Surface):
    """400, JSON, and the reason in it."""
    with pytest.raises(Refused) as caught:
        surface.read(Members({}))
    assert caught.value.status == 400
    json.loads(surface.error(caught.value))
    assert caught.value.message.encode() in surface.error(caught.value)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda each: each.path)
def test_a_stream_is_whole_events(surface: Surface):
    """Whatever a surface writes ends where an event ends, so that every write can be sent at once."""
    answer = surface.answer(ASKED, "t1", 1700000000)
    broken = answer.broken(Refused(502, "gone"))
    for written in (answer.begin(), answer.piece(DELTA), answer.end(StopReason.END), answer.usage(UNKNOWN), broken):
        assert not written or written.endswith(b"\n\n")
    assert b"hello" in answer.piece(DELTA)
    assert b"gone" in broken


@pytest.mark.parametrize("surface", SURFACES, ids=lambda each: each.path)
@pytest.mark.parametrize("stop_reason", [each for each in StopReason if each is not StopReason.CANCELLED])
def test_every_end_can_be_told(surface: Surface, stop_reason: StopReason):
    """A cancelled turn has failed; every other reason has a word."""
    answer = surface.answer(ASKED, "t1", 1700000000)
    assert answer.end(stop_reason)
    assert "hello" in json.dumps(json.loads(answer.whole([DELTA], stop_reason, UNKNOWN)))
