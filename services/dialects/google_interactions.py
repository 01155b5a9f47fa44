"""
Google's Interactions API: `POST …/interactions`, on the Gemini API and on Vertex AI.

Source     Gemini API reference (`Interaction`, `Usage`), `googleapis/python-genai:google/genai/_interactions`; the sums
           below were exact in 26 recordings of 26.
Framing    One JSON object (`"object": "interaction"`), or an event stream whose `event_type` says what each event is;
           the interaction, with its final usage, is a member of the first and the last. Behind it comes `[DONE]`.

Counts     total_input_tokens     prompt, cached content included
           total_cached_tokens    part of the prompt
           total_tool_use_tokens  results of server-side tools fed back; beside the prompt
           total_output_tokens    answer, thinking excluded
           total_thought_tokens   thinking
           total_tokens           prompt + tool use + answer + thinking

           So input = prompt + tool use, output = answer + thinking. `*_tokens_by_modality` are lists of
           `{modality, tokens}`.
Replace    The last usage object that has any count is right as a whole.
End        `interaction.completed` (older: `interaction.complete`), whatever its status says: `completed`,
           `requires_action`, `incomplete`, `failed`, `cancelled`. Nothing comes behind it but `[DONE]`.
Again      `GET …/interactions/{id}` returns a past interaction with its usage again, so it is not counted; one that
           runs in the background (`"status": "in_progress"`) has reported nothing when its POST is answered.
"""

import re

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import (
    MODALITIES,
    anomalies_of,
    count_of,
    error_name_of,
    name_of,
    object_of,
    objects_of,
    without_absent,
)
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseReader
from services.dialects.hosts import provider_of
from services.dialects.request_body import model_and_stream
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "google-interactions"
OPERATION = "generate_content"

END_EVENTS = frozenset({"interaction.completed", "interaction.complete"})
STATES_UNDER_WAY = frozenset({"in_progress", "queued"})
FAILED = "failed"

# JSON may spell any letter as an escape, `\\u0075sage`; all letters have numbers below 0x80.
ESCAPED_LETTER = b"\\u00"

# List of a usage object -> what its modalities are parts of.
MODALITY_LISTS = {
    "input_tokens_by_modality": "input_tokens",
    "tool_use_tokens_by_modality": "input_tokens",
    "output_tokens_by_modality": "output_tokens",
    "cached_tokens_by_modality": "cache_read_input_tokens",
}

_PATH = re.compile(r"(?:/v1\w*|.*/locations/[^/]+)/interactions(/.*)?")


class InteractionTally:
    """What one interaction said so far."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}
        self._response_id: str | None = None
        self._model: str | None = None
        self._status: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False
        self.has_ended = False

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        """Leave out the events of single steps, which are nearly all, and know nothing of the interaction."""
        return [text for text in texts if _may_tell(text)] if _may_tell(b"".join(texts)) else []

    def read(self, message: dict[str, object]) -> bool:
        if name_of(message.get("event_type")) in END_EVENTS:
            self.has_ended = True
        if message.get("error"):
            self.fail(message["error"])
        if "event_type" in message:
            return self._read_interaction(object_of(message.get("interaction")))
        return self._read_interaction(message)

    def counts(self) -> Counts:
        return _counts_of(self._usage)

    def response_model(self) -> str | None:
        return self._model

    def fail(self, error: object) -> None:
        self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        counts = self.counts()
        return ResponseUsage(
            outcome=outcome,
            operation=OPERATION,
            counts=counts,
            request_model=self._facts.model or self._call.request_model,
            response_model=self._model,
            response_id=self._response_id,
            conversation_id=self._facts.conversation_id,
            finish_reasons=(self._status,) if self._status else (),
            error_type=self.error_type,
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()

    def _read_interaction(self, interaction: dict[str, object]) -> bool:
        self._response_id = name_of(interaction.get("id")) or self._response_id
        self._model = name_of(interaction.get("model")) or self._model
        status = name_of(interaction.get("status"))
        if status is not None and status not in STATES_UNDER_WAY:
            self._status = status
        if status == FAILED:
            self.error_type = self.error_type or error_name_of(interaction.get("error")) or FAILED
        usage = object_of(interaction.get("usage"))
        if usage == self._usage or not _counts_of(usage):
            return False
        self._usage = usage
        return True


def _counts_of(usage: dict[str, object]) -> Counts:
    prompt, answer = count_of(usage.get("total_input_tokens")), count_of(usage.get("total_output_tokens"))
    tool_use, thoughts = count_of(usage.get("total_tool_use_tokens")), count_of(usage.get("total_thought_tokens"))
    counts = without_absent(
        {
            "input_tokens": _sum_of(prompt, tool_use),
            "output_tokens": _sum_of(answer, thoughts),
            "cache_read_input_tokens": count_of(usage.get("total_cached_tokens")),
            "tool_use_prompt_input_tokens": tool_use,
            "reasoning_output_tokens": thoughts,
            "total_tokens": count_of(usage.get("total_tokens")),
        }
    )
    for field, suffix in MODALITY_LISTS.items():
        for entry in objects_of(usage.get(field)):
            modality, tokens = str(entry.get("modality")).lower(), count_of(entry.get("tokens"))
            if modality in MODALITIES and tokens is not None:
                name = f"{modality}_{suffix}"
                counts[name] = counts.get(name, 0) + tokens
    return counts


def _sum_of(*parts: int | None) -> int | None:
    reported = [part for part in parts if part is not None]
    return sum(reported) if reported else None


def _may_tell(text: bytes) -> bool:
    """Say whether a message has an interaction, an error or the end; in a string such words have a backslash."""
    if b'"interaction"' in text or b'"error"' in text or b'"interaction.comp' in text:
        return True
    return b"\\u" in text and ESCAPED_LETTER in text


def _says_nothing(text: bytes) -> bool:
    return not _may_tell(text)


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by path on Google's hosts; only the POST that begins an interaction makes a model work."""
    provider = provider_of(endpoint.host)
    found = _PATH.fullmatch(endpoint.path) if provider in ("gcp.gemini", "gcp.vertex_ai") else None
    if found is None:
        return None
    if endpoint.method == "POST" and found[1] in (None, "/"):
        return Call(kind=CallKind.MODEL_CALL, dialect=NAME, provider=provider, operation=OPERATION)
    return Call(kind=CallKind.OTHER, provider=provider, operation="interactions")


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    return AnswerReader(InteractionTally(call, facts), content_type, end_is_final=True, says_nothing=_says_nothing)


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=model_and_stream, response_reader=response_reader)
