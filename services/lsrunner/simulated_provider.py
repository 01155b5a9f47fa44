"""
What the simulated provider answers: a request of the Cloud Code API to the events of its answer.

Input: the parsed body of a `v1internal` call. Output: JSON for server-sent events, or for a whole body. No socket, no
clock. The counts are real in the only sense that a simulation has: they follow from the texts by `tokens_in`, always
the same, so that anyone can check them. Shapes: the wrapper object with `response`, `traceId` and `metadata`;
`usageMetadata` in every event, cumulative; thoughts counted outside the candidates; `cachedContentTokenCount` in the
last event only, and inside the prompt's count; errors as an indented JSON object.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 4
MODELS: Mapping[str, str] = {
    "simulated-flash": "Simulated Flash (no real model)",
    "simulated-pro": "Simulated Pro (no real model)",
}
# Answers the language server's own small questions; not offered to people.
CHECKPOINT_MODEL = "simulated-lite"
# A prompt with these words gets that HTTP status, for trying out what clients make of it.
_ASKS_FOR_ERROR = re.compile(r"\bsimulate error (400|401|403|429|500|503)\b")
_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument (simulated)."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials (simulated)."),
    403: ("PERMISSION_DENIED", "The caller does not have permission (simulated)."),
    404: ("NOT_FOUND", "Requested entity was not found (simulated)."),
    429: ("RESOURCE_EXHAUSTED", "Resource has been exhausted, e.g. check quota (simulated)."),
    500: ("INTERNAL", "Internal error encountered (simulated)."),
    503: ("UNAVAILABLE", "No capacity available for the model on the server (simulated)."),
}


class Problem(Exception):
    """The call gets an error with this HTTP status."""

    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """
    What a call asks.

    Attributes:
        texts: System instructions, then every content, in order.
        earlier: How many of the texts an earlier call of the conversation has had already.
    """

    model: str
    texts: tuple[str, ...]
    earlier: int


def tokens_in(text: str) -> int:
    """Count tokens by the simulation's own rule: one for each four characters begun."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def prompt_in(body: Mapping[str, object]) -> Prompt:
    """
    Read the body of a call.

    Raises:
        Problem: The body is not one of ours, its model is unknown, or its prompt asks for an error.
    """
    model, request = body.get("model"), body.get("request")
    if model not in (*MODELS, CHECKPOINT_MODEL) or not isinstance(model, str):
        raise Problem(status=404)
    if not isinstance(request, dict):
        raise Problem(status=400)
    contents = request.get("contents")
    instructions = _texts_of(request.get("systemInstruction", {"parts": []}))
    if not isinstance(contents, list) or not contents:
        raise Problem(status=400)
    spoken = [text for content in contents for text in _texts_of(content)]
    asked = _ASKS_FOR_ERROR.search(spoken[-1]) if spoken and model != CHECKPOINT_MODEL else None
    if asked:
        raise Problem(status=int(asked[1]))
    texts = (*instructions, *spoken)
    earlier = len(texts) - 1 if len(contents) > 1 else 0
    return Prompt(model=model, texts=texts, earlier=earlier)


def _texts_of(content: object) -> list[str]:
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list):
        raise Problem(status=400)
    return [str(part.get("text", "")) for part in parts if isinstance(part, dict)]


def answer_to(prompt: Prompt) -> tuple[str, tuple[str, ...]]:
    """Return what the model thinks, and the pieces of what it says."""
    if prompt.model == CHECKPOINT_MODEL:
        return "", ("A simulated conversation",)
    last, characters = prompt.texts[-1], sum(map(len, prompt.texts))
    thought = f"Texts in the prompt: {len(prompt.texts)}. There is no model here, so counting is all I can do."
    return thought, (
        f"This is Wiremeter's simulated model {prompt.model}. ",
        "No provider was asked and no account was used. ",
        f"Your prompt has {len(last)} characters; with everything before it {characters}, ",
        f"which this simulation counts as {sum(map(tokens_in, prompt.texts))} tokens.",
    )


def events_for(prompt: Prompt, response_id: str) -> Iterator[dict[str, object]]:
    """Yield the events of an answer, each with the counts so far."""
    thought, said = answer_to(prompt)
    asked = sum(map(tokens_in, prompt.texts))
    thoughts = tokens_in(thought)
    if thought:
        counts = {"promptTokenCount": asked, "thoughtsTokenCount": thoughts, "totalTokenCount": asked + thoughts}
        yield _event(prompt, response_id, [{"thought": True, "text": thought}], counts)
    so_far = ""
    for number, piece in enumerate(said, 1):
        so_far += piece
        candidates = tokens_in(so_far)
        counts = {"promptTokenCount": asked, "candidatesTokenCount": candidates}
        if thought:
            counts["thoughtsTokenCount"] = thoughts
        cached = sum(map(tokens_in, prompt.texts[: prompt.earlier]))
        if number == len(said) and cached:
            counts["cachedContentTokenCount"] = cached
        counts["totalTokenCount"] = asked + candidates + thoughts
        finish = "STOP" if number == len(said) else None
        yield _event(prompt, response_id, [{"text": piece}], counts, finish)


def _event(
    prompt: Prompt,
    response_id: str,
    parts: Sequence[Mapping[str, object]],
    counts: Mapping[str, int],
    finish: str | None = None,
) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"role": "model", "parts": parts}}
    if finish:
        candidate["finishReason"] = finish
    return {
        "response": {
            "candidates": [candidate],
            "usageMetadata": counts,
            "modelVersion": prompt.model,
            "responseId": response_id,
        },
        "traceId": trace_id_of(response_id),
        "metadata": {},
    }


def trace_id_of(response_id: str) -> str:
    """Return the trace id that goes with a response."""
    return hashlib.sha256(response_id.encode()).hexdigest()[:16]


def error_body(problem: Problem) -> dict[str, object]:
    """Return the body of an error."""
    status, message = _ERRORS[problem.status]
    return {"error": {"code": problem.status, "message": message, "status": status}}


# The calls of a start, and what they are answered.
START_ANSWERS: Mapping[str, Mapping[str, object]] = {
    "loadCodeAssist": {
        "currentTier": {"id": "simulated-tier", "name": "Simulated"},
        "allowedTiers": [{"id": "simulated-tier", "name": "Simulated", "isDefault": True}],
        "cloudaicompanionProject": "wiremeter-simulated",
    },
    "fetchUserInfo": {"userSettings": {"telemetryEnabled": False}, "regionCode": "ZZ"},
    "fetchAvailableModels": {
        "models": {name: {"displayName": title, "maxTokens": 1048576} for name, title in MODELS.items()},
        "defaultAgentModelId": next(iter(MODELS)),
    },
}
