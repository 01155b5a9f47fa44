"""The models that the language server offers, as OpenAI's list: `GET /v1/models`."""

from services.events.lifecycle import LanguageServerState, ServerState
from services.frontproxy.refusal import unknown_model


def model_list(state: LanguageServerState | None) -> dict[str, object]:
    """
    Write the list.

    A language server that is not ready offers nothing; `x_wiremeter` then says why. The list is still an answer, not
    an error: clients ask for it when they start, and most give up for good when that fails.
    """
    if state is None or state.state is not ServerState.READY:
        return {"object": "list", "data": [], "x_wiremeter": _explanation(state)}
    return {"object": "list", "data": [_model(state, model.id, model.name) for model in state.models]}


def one_model(state: LanguageServerState | None, model_id: str) -> dict[str, object]:
    """
    Write one model.

    Raises:
        Refused: The model is not offered.
    """
    offered = state.models if state is not None and state.state is ServerState.READY else ()
    for model in offered:
        if state is not None and model.id == model_id:
            return _model(state, model.id, model.name)
    raise unknown_model(model_id, tuple(model.id for model in offered))


def _model(state: LanguageServerState, model_id: str, name: str) -> dict[str, object]:
    # The SDKs demand `created`, and no language server says it.
    return {"id": model_id, "object": "model", "created": 0, "owned_by": state.profile, "x_name": name}


def _explanation(state: LanguageServerState | None) -> dict[str, object]:
    if state is None:
        return {"state": None, "detail": "nothing has been heard of the language server"}
    explanation: dict[str, object] = {"state": state.state, "detail": state.detail}
    if state.login_url:
        explanation["login_url"] = state.login_url
    return explanation
