"""
OpenAI's embeddings (`/embeddings`), also at Azure, Mistral, Voyage and others.

One JSON object with `usage.prompt_tokens` and `usage.total_tokens`; there is no output. Voyage reports the total only,
which is the input then. Mistral adds `completion_tokens: 0`. There are no streams and no finish reasons.
"""

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import anomalies_of, count_of, error_name_of, name_of, object_of
from services.dialects.dialect import Call, Dialect, Endpoint, RequestFacts, RequestReader, ResponseReader
from services.dialects.openai_paths import model_call, path_ending
from services.dialects.openai_usage import chat_counts, has_chat_counts
from services.dialects.request_body import MODEL, RequestBodyReader
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "openai-embeddings"
OPERATION = "embeddings"

_PATH = path_ending("embeddings", "multimodalembeddings", "contextualizedembeddings")
_OLLAMA_PATH = "/api/embeddings"  # its own shape, and without counts


class EmbeddingsTally:
    """What one list of embeddings said."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}
        self._model: str | None = None
        self._response_id: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False
        self.has_ended = False  # there are no streams

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return texts

    def read(self, message: dict[str, object]) -> bool:
        self._response_id = name_of(message.get("id"))
        self._model = name_of(message.get("model"))
        if message.get("error"):
            self.fail(message["error"])
        usage = object_of(message.get("usage"))
        if not has_chat_counts(usage):
            return False
        self._usage = usage
        return True

    def counts(self) -> Counts:
        if not self._usage:
            return {}
        counts = chat_counts(self._usage, self._call.provider)
        total = count_of(self._usage.get("total_tokens"))
        return counts if "input_tokens" in counts or total is None else {"input_tokens": total, **counts}

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
            error_type=self.error_type,
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host."""
    return None if endpoint.path == _OLLAMA_PATH else model_call(endpoint, _PATH, NAME, OPERATION)


def request_reader(call: Call) -> RequestReader:
    """Return a reader for the model."""
    return RequestBodyReader(call, (MODEL,), body_names_model=True)


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    return AnswerReader(EmbeddingsTally(call, facts), content_type)


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=request_reader, response_reader=response_reader)
