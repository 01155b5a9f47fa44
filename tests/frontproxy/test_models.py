"""The list of models."""

import dataclasses

import pytest

from services.events.lifecycle import LanguageServerState, OfferedModel, ServerState
from services.frontproxy.models import model_list, one_model
from services.frontproxy.refusal import Refused

READY = LanguageServerState(
    at="2026-11-23T12:00:00Z",
    state=ServerState.READY,
    profile="simulated",
    label="simulated",
    user="me",
    uid=1000,
    models=(OfferedModel(id="m/1", name="Model One"), OfferedModel(id="m2", name="Model Two")),
)
MODEL = {"id": "m/1", "object": "model", "created": 0, "owned_by": "simulated", "x_name": "Model One"}


def test_models_are_listed_in_openais_shape():
    """With the vendor's name for people beside the id."""
    found = model_list(READY)
    assert found["object"] == "list"
    assert found["data"] == [MODEL, MODEL | {"id": "m2", "x_name": "Model Two"}]


def test_a_language_server_that_is_not_ready_offers_nothing_and_says_why():
    """An empty list with the reason, not an error."""
    state = dataclasses.replace(READY, state=ServerState.SIGNING_IN, detail="no account", login_url="https://x.example")
    assert model_list(state) == {
        "object": "list",
        "data": [],
        "x_wiremeter": {"state": "signing_in", "detail": "no account", "login_url": "https://x.example"},
    }
    assert model_list(None)["data"] == []


def test_one_model_is_told_or_refused():
    """The refusal lists what is offered."""
    assert one_model(READY, "m/1") == MODEL
    for state in (READY, None):
        with pytest.raises(Refused, match="the model 'm3' is not offered") as caught:
            one_model(state, "m3")
        assert caught.value.status == 404
        assert caught.value.code == "model_not_found"
