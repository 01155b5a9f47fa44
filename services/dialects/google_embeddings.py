"""
Google's embeddings: `:embedContent`, `:batchEmbedContents` (Gemini API), `:predict` with an embedding model (Vertex).

Source     Gemini API reference (`EmbedContentResponse`), Vertex AI "Text embeddings API"; 34 recordings of older models
           report nothing.
Framing    One JSON object. The model is in the path.
Counts     `usageMetadata.promptTokenCount`, with `promptTokenDetails` by modality (*Token*, singular, though the plural
           of `generateContent` is taken too). Vertex: `predictions[].embeddings.statistics.token_count`, one for each
           text, which are added up. There is no output.
Elsewhere  `:predict` with other models (images, music) has no token counts, and nobody reads it.
"""

import re

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import (
    anomalies_of,
    count_of,
    error_name_of,
    name_of,
    object_of,
    objects_of,
    without_absent,
)
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseReader
from services.dialects.google_generate_content import add_by_modality
from services.dialects.hosts import provider_of
from services.dialects.request_body import path_alone
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "google-embeddings"
OPERATION = "embeddings"
PREDICT = "predict"

DETAILS = ("promptTokenDetails", "promptTokensDetails")

_PATH = re.compile(r".*/(?:models|tunedModels|endpoints)/([^/]+):(embedContent|batchEmbedContents|predict)/?")
_EMBEDDING_MODEL = re.compile(r".*(?:embed|gecko).*", re.IGNORECASE)


class GoogleEmbeddingsTally:
    """What one answer said."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._counts: Counts = {}
        self._model: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False
        self.has_ended = False  # there are no streams

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return texts

    def read(self, message: dict[str, object]) -> bool:
        self._model = name_of(message.get("modelVersion"))
        if message.get("error"):
            self.fail(message["error"])
        before = self._counts
        self._counts = _counts_of(object_of(message.get("usageMetadata"))) or _sum_over(message.get("predictions"))
        return self._counts != before

    def counts(self) -> Counts:
        return self._counts

    def response_model(self) -> str | None:
        return self._model

    def fail(self, error: object) -> None:
        self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        return ResponseUsage(
            outcome=outcome,
            operation=OPERATION,
            counts=self._counts,
            request_model=self._facts.model or self._call.request_model,
            response_model=self._model,
            conversation_id=self._facts.conversation_id,
            error_type=self.error_type,
            reason=reason,
            anomalies=anomalies_of(self._counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()


def _counts_of(usage: dict[str, object]) -> Counts:
    counts = without_absent(
        {
            "input_tokens": count_of(usage.get("promptTokenCount")),
            "total_tokens": count_of(usage.get("totalTokenCount")),
        }
    )
    for field in DETAILS:
        add_by_modality(counts, usage.get(field), "input_tokens")
    return counts


def _sum_over(predictions: object) -> Counts:
    """Add up the counts of Vertex, one for each text."""
    statistics = [
        object_of(object_of(prediction.get("embeddings")).get("statistics")) for prediction in objects_of(predictions)
    ]
    counts = [count for entry in statistics if (count := count_of(entry.get("token_count"))) is not None]
    return {"input_tokens": sum(counts)} if counts else {}


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host; `:predict` by its model."""
    found = _PATH.fullmatch(endpoint.path) if endpoint.method == "POST" else None
    if found is None:
        return None
    model, verb = found.groups()
    provider = provider_of(endpoint.host)
    if verb == PREDICT and not _EMBEDDING_MODEL.fullmatch(model):
        return Call(kind=CallKind.MODEL_CALL, provider=provider, operation=PREDICT, request_model=model)
    return Call(
        kind=CallKind.MODEL_CALL,
        dialect=NAME,
        provider=provider,
        operation=OPERATION,
        request_model=model,
        is_streaming=False,
    )


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    return AnswerReader(GoogleEmbeddingsTally(call, facts), content_type)


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=path_alone, response_reader=response_reader)
