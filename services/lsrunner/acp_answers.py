"""
What Agent Client Protocol agents say, read leniently: JSON of their answers to our words.

Input: parsed JSON objects. Output: models, updates, stop reasons, failures. Anything that is not understood is passed
over: agents are ahead of every schema, and a turn must not fail over a notice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.events.lifecycle import OfferedModel
from services.events.turn import FailureKind, StopReason
from services.lsrunner.profiles import TurnRefused

# Error texts of agents are for people; some quote what they were given.
_MESSAGE_LENGTH_MAX = 500
_STOP_REASONS = {
    "end_turn": StopReason.END,
    "max_tokens": StopReason.LENGTH,
    "max_turn_requests": StopReason.LENGTH,
    "refusal": StopReason.REFUSED,
    "cancelled": StopReason.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """
    The models that an agent offers.

    Attributes:
        current: What a new session uses.
        chooser: `session/set_model`, or the id of the configuration option that chooses; None when there is no choice.
    """

    offered: tuple[OfferedModel, ...] = ()
    current: str | None = None
    chooser: str | None = None

    def choice(self, session: str, model: str) -> tuple[str, dict[str, object]]:
        """Return method and parameters that make a session use `model`."""
        if self.chooser == "session/set_model":
            return self.chooser, {"sessionId": session, "modelId": model}
        return "session/set_config_option", {"sessionId": session, "configId": self.chooser, "value": model}


def models_in(session: Mapping[str, object], default: str) -> Models:
    """Find the models in the answer to `session/new`; an agent that tells none offers one with the name `default`."""
    return (
        _models_listed(session)
        or _models_configured(session)
        or Models(offered=(OfferedModel(id=default, name=default),), current=default)
    )


def _models_listed(session: Mapping[str, object]) -> Models | None:
    """`models`, an extension that several agents speak."""
    listed = _object(session.get("models"))
    offered = _offered(_objects(listed.get("availableModels")), "modelId")
    current = listed.get("currentModelId")
    return _models(offered, current, "session/set_model") if offered else None


def _models_configured(session: Mapping[str, object]) -> Models | None:
    """`configOptions`, the protocol's own way: a select option of the category `model`, its values maybe in groups."""
    for option in _objects(session.get("configOptions")):
        identity = option.get("id")
        if option.get("category") != "model" or not isinstance(identity, str):
            continue
        grouped = (_objects(each.get("options")) or [each] for each in _objects(option.get("options")))
        offered = _offered((value for group in grouped for value in group), "value")
        if offered:
            return _models(offered, option.get("currentValue"), identity)
    return None


def _offered(listed: Iterable[Mapping[str, object]], key: str) -> list[OfferedModel]:
    named = ((each.get(key), each.get("name")) for each in listed)
    return [OfferedModel(id=model, name=str(name or model)) for model, name in named if isinstance(model, str)]


def _models(offered: list[OfferedModel], current: object, chooser: str) -> Models:
    """Put the current one first: it is what a client gets that names none."""
    offered.sort(key=lambda model: model.id != current)
    return Models(offered=tuple(offered), current=current if isinstance(current, str) else None, chooser=chooser)


def api_key_method(greeting: Mapping[str, object]) -> str | None:
    """Return the authentication method that needs no person, if the agent has one."""
    for method in _objects(greeting.get("authMethods")):
        identity = method.get("id")
        named = f"{identity} {method.get('name')}".lower().replace("-", " ").replace("_", " ")
        if isinstance(identity, str) and (
            method.get("type") == "env_var" or "api key" in named or "api-key" in _object(method.get("_meta"))
        ):
            return identity
    return None


def update_in(notification: Mapping[str, object]) -> tuple[str, str]:
    """Return `text`, `thinking` or `tool` with what it says; two empty words for every other update."""
    update = _object(notification.get("update"))
    text = _object(update.get("content")).get("text")
    match update.get("sessionUpdate"):
        case "agent_message_chunk" if isinstance(text, str):
            return "text", text
        case "agent_thought_chunk" if isinstance(text, str):
            return "thinking", text
        case "tool_call":
            return "tool", str(update.get("title") or update.get("kind") or "a tool")
    return "", ""


def rejection_of(request: Mapping[str, object], prompting: bool) -> dict[str, object]:
    """Answer a request for permission: no, this time; `cancelled` where no is not offered or nothing is being asked."""
    for option in _objects(request.get("options")) if prompting else ():
        if option.get("kind") == "reject_once":
            return {"outcome": {"outcome": "selected", "optionId": option.get("optionId")}}
    return {"outcome": {"outcome": "cancelled"}}


def stop_reason_of(answer: Mapping[str, object]) -> StopReason:
    """Translate the end of a prompt; an unknown reason is an end like any other."""
    return _STOP_REASONS.get(str(answer.get("stopReason")), StopReason.END)


def failure_of(code: int, message: str, data: object) -> TurnRefused:
    """Translate a JSON-RPC error; agents put the provider's HTTP status there too (gemini: 429)."""
    detail = _object(data).get("details")
    said = f"{message}: {detail}" if isinstance(detail, str) and detail != message else message
    said = said[:_MESSAGE_LENGTH_MAX]
    if code == -32000:
        return TurnRefused(FailureKind.NOT_READY, f"the agent wants its user to sign in first: {said}")
    if 400 <= code < 600:
        return TurnRefused(FailureKind.UPSTREAM, f"the agent was refused by its provider: {said}", code)
    if code in (-32602, -32600):
        return TurnRefused(FailureKind.INVALID, f"the agent does not accept the request: {said}")
    return TurnRefused(FailureKind.UPSTREAM, f"the agent failed: {said}")


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[Mapping[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
