"""What agents say, read leniently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.lifecycle import OfferedModel
from services.events.turn import FailureKind, StopReason
from services.lsrunner.acp_answers import (
    api_key_method,
    failure_of,
    models_in,
    rejection_of,
    stop_reason_of,
    update_in,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def test_the_current_model_comes_first():
    """It is what a client gets that names none."""
    listed = {
        "models": {
            "availableModels": [{"modelId": "a", "name": "A"}, {"modelId": "b"}, {"name": "no id"}],
            "currentModelId": "b",
        }
    }
    models = models_in(listed, default="agent")
    assert models.offered == (OfferedModel(id="b", name="b"), OfferedModel(id="a", name="A"))
    assert models.choice("S", "a") == ("session/set_model", {"sessionId": "S", "modelId": "a"})


def test_models_are_found_among_the_configuration_options():
    """Flat or in groups; options of other categories are none of our business."""
    options = [
        {"id": "mode", "category": "mode", "options": [{"value": "fast"}]},
        {"id": "m", "category": "model", "currentValue": "a", "options": [{"value": "a", "name": "A"}, {"value": "b"}]},
    ]
    models = models_in({"configOptions": options}, default="agent")
    assert [model.id for model in models.offered] == ["a", "b"]
    assert models.choice("S", "b") == (
        "session/set_config_option",
        {"sessionId": "S", "configId": "m", "value": "b"},
    )


def test_the_way_of_signing_in_without_a_person_is_found():
    """As three agents spell it; the others need one."""
    assert api_key_method({"authMethods": [{"id": "oauth"}, {"id": "gemini-api-key", "name": "x"}]}) == "gemini-api-key"
    assert api_key_method({"authMethods": [{"id": "k", "type": "env_var", "name": "x"}]}) == "k"
    assert api_key_method({"authMethods": [{"id": "k", "name": "x", "_meta": {"api-key": {}}}]}) == "k"
    assert api_key_method({"authMethods": [{"id": "oauth-personal", "name": "Log in with Google"}]}) is None


def test_a_permission_is_refused_once_or_the_request_cancelled():
    """Never for always, and never granted."""
    options = [{"optionId": "a", "kind": "allow_once"}, {"optionId": "r", "kind": "reject_once"}]
    assert rejection_of({"options": options}, prompting=True) == {"outcome": {"outcome": "selected", "optionId": "r"}}
    cancelled = {"outcome": {"outcome": "cancelled"}}
    assert rejection_of({"options": options[:1]}, prompting=True) == cancelled
    assert rejection_of({"options": options}, prompting=False) == cancelled


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", StopReason.END),
        ("max_tokens", StopReason.LENGTH),
        ("max_turn_requests", StopReason.LENGTH),
        ("refusal", StopReason.REFUSED),
        ("cancelled", StopReason.CANCELLED),
        ("something new", StopReason.END),
    ],
)
def test_stop_reasons_are_translated(word, reason):
    """Unknown ones are ends like any other."""
    assert stop_reason_of({"stopReason": word}) is reason


def test_an_error_text_is_bounded():
    """Some agents put whole answers of their provider there."""
    refused = failure_of(503, "x" * 10_000, None)
    assert (refused.kind, refused.status) == (FailureKind.UPSTREAM, 503)
    assert len(refused.message) < 600


@given(JSON, st.integers())
def test_nothing_that_an_agent_says_raises(value, code):
    """A turn must not fail over a notice."""
    members = value if isinstance(value, dict) else {"update": value, "models": value, "configOptions": value}
    assert models_in(members, default="agent").offered
    update_in({"update": value})
    api_key_method({"authMethods": value})
    rejection_of({"options": value}, prompting=True)
    stop_reason_of(members)
    failure_of(code, "m", value)
