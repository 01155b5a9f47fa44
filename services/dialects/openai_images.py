"""
OpenAI's images: `/images/generations`, `/images/edits`, `/images/variations`.

Source     `openai/openai-python:api_reference/openapi.transformed.yml`, `ImagesResponse` and `ImageGenCompletedEvent`.
Framing    One JSON object, or an event stream of `image_generation.partial_image` and `…completed` (`image_edit.…`).
Counts     `usage` as in Responses, with `text_tokens` and `image_tokens` in its details. Models older than GPT-image
           (DALL-E) report none. A stream reports them in its `completed` event, one for each image, of which the last
           holds for all.
End        An event whose type ends in `.completed`. Edits are sent as forms, whose model is not read: the model is
           then what the response names, if it does.
"""

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import anomalies_of, error_name_of, name_of, object_of
from services.dialects.dialect import Call, Dialect, Endpoint, RequestFacts, RequestReader, ResponseReader
from services.dialects.openai_paths import model_call, path_ending
from services.dialects.openai_usage import has_responses_counts, responses_counts
from services.dialects.request_body import MODEL, STREAM, RequestBodyReader
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "openai-images"
OPERATION = "generate_content"

_PATH = path_ending("images/generations", "images/edits", "images/variations")


class ImagesTally:
    """What one answer said so far."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}
        self._model: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False
        self.has_ended = False

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return texts

    def read(self, message: dict[str, object]) -> bool:
        self._model = self._model or name_of(message.get("model"))
        kind = message.get("type")
        if message.get("error") or kind == "error":
            self.fail(message.get("error") or {"code": message.get("code")})
        if type(kind) is str and kind.endswith(".completed"):
            self.has_ended = True
        usage = object_of(message.get("usage"))
        if usage == self._usage or not has_responses_counts(usage):
            return False
        self._usage = usage
        return True

    def counts(self) -> Counts:
        return responses_counts(self._usage)

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
            conversation_id=self._facts.conversation_id,
            error_type=self.error_type,
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host."""
    return model_call(endpoint, _PATH, NAME, OPERATION)


def request_reader(call: Call) -> RequestReader:
    """Return a reader for the model."""
    return RequestBodyReader(call, (MODEL, STREAM), body_names_model=True)


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    return AnswerReader(ImagesTally(call, facts), content_type)


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=request_reader, response_reader=response_reader)
