"""
Ollama's own API: `/api/chat`, `/api/generate`, `/api/embed`, `/api/embeddings`.

Source     `ollama/ollama:docs/api.md` and `api/types.go`.
Framing    JSON lines, unless the request says `"stream": false`: then one JSON object. Embeddings: one JSON object.
Counts     In the object with `"done": true`: prompt_eval_count (input) and eval_count (output, thinking included). A
           count is missing if nothing was evaluated: the prompt was wholly cached (older versions), or a model was only
           loaded or unloaded. Embeddings have prompt_eval_count; those of the older `/api/embeddings` have nothing.
Names      `model` in every object; there is no id.
End        `"done": true`, behind which nothing comes.
Errors     `{"error": "text"}`, with a status of 400 and above, or as the last line.
Provider   Ollama runs on the user's own machines, so that its paths name it where the host is nobody's.
"""

import re

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import anomalies_of, count_of, error_name_of, name_of, without_absent
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseReader
from services.dialects.framings import json_lines
from services.dialects.hosts import SELF_HOSTED, UNKNOWN_PROVIDER, provider_of
from services.dialects.request_body import model_and_stream
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "ollama-native"
PROVIDER = "ollama"

OPERATIONS = {
    "chat": "chat",
    "generate": "text_completion",
    "embed": "embeddings",
    "embeddings": "embeddings",
}

# A line with text has these and neither a count nor an error. Anything else is parsed.
PLAIN_ENDS = (b'"done":false}', b'"done": false}')

_PATH = re.compile(r"/api/(chat|generate|embed|embeddings)/?")
_FREE_PATH = re.compile(
    r"/api/(blobs|copy|create|delete|me|ps|pull|push|show|signout|tags|version|web_fetch|web_search)(?:/.*)?"
)


class OllamaTally:
    """What one answer said so far."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._counts: Counts = {}
        self._model: str | None = None
        self._done_reason: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False
        self.has_ended = False

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        """Leave out lines of text once the model is known; what ends as they do has said that it is not the last."""
        if self._model is None:
            return texts
        return [text for text in texts if not text.endswith(PLAIN_ENDS)]

    def read(self, message: dict[str, object]) -> bool:
        self._model = self._model or name_of(message.get("model"))
        if message.get("error"):
            self.fail(message["error"])
        if message.get("done") is True:
            self.has_ended = True
            self._done_reason = name_of(message.get("done_reason"))
        elif "done" in message:
            return False
        counts = without_absent(
            {
                "input_tokens": count_of(message.get("prompt_eval_count")),
                "output_tokens": count_of(message.get("eval_count")),
            }
        )
        if not counts or counts == self._counts:
            return False
        self._counts = counts
        return True

    def counts(self) -> Counts:
        return self._counts

    def response_model(self) -> str | None:
        return self._model

    def fail(self, error: object) -> None:
        self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        return ResponseUsage(
            outcome=outcome,
            operation=self._call.operation or "",
            counts=self._counts,
            request_model=self._facts.model or self._call.request_model,
            response_model=self._model,
            conversation_id=self._facts.conversation_id,
            finish_reasons=(self._done_reason,) if self._done_reason else (),
            error_type=self.error_type,
            reason=reason,
            anomalies=anomalies_of(self._counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by path, on Ollama's host and on those that are no other provider's."""
    if provider_of(endpoint.host) not in (PROVIDER, SELF_HOSTED, UNKNOWN_PROVIDER):
        return None
    if endpoint.method == "POST" and (found := _PATH.fullmatch(endpoint.path)):
        operation = OPERATIONS[found[1]]
        return Call(kind=CallKind.MODEL_CALL, dialect=NAME, provider=PROVIDER, operation=operation)
    if provider_of(endpoint.host) != UNKNOWN_PROVIDER and (found := _FREE_PATH.fullmatch(endpoint.path)):
        return Call(kind=CallKind.OTHER, provider=PROVIDER, operation=found[1])
    return None


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    is_streaming = facts.stream is not False and call.operation != OPERATIONS["embed"]  # a stream is its default
    framing = json_lines(content_type, is_streaming=is_streaming)
    return AnswerReader(OllamaTally(call, facts), content_type, end_is_final=True, framing=framing)


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=model_and_stream, response_reader=response_reader)
