"""
Google's `GenerateContent` and `StreamGenerateContent` over gRPC: the Gemini API, and Vertex AI.

Source     `googleapis/googleapis`: `google/ai/generativelanguage/v1beta/{generative_service,content}.proto`,
           `google/cloud/aiplatform/{v1,v1beta1}/{prediction_service,content,usage_metadata}.proto`. The two APIs have
           the same members under different numbers, each the same in all of its versions.
Framing    One message for each object of the JSON API, in gRPC's framing; the model is in the request's message, as
           `models/MODEL` or `projects/P/locations/L/publishers/google/models/MODEL`.

Counts     Those of google_generate_content, whose rules hold: here is only which number is which member. A zero is not
           on the wire, as it is not in JSON that is made from protobuf.
End        The call's status: a finish reason is not needed, and does not do alone.
Enums      Numbers, beyond the first few of another meaning in each API; one that has no name here passes as a number.
"""

import re
from collections.abc import Mapping

from services.dialects.answer import FIRST_ERROR_STATUS, ErrorAnswerReader
from services.dialects.counts import name_of
from services.dialects.dialect import (
    Call,
    CallKind,
    Dialect,
    Endpoint,
    RequestFacts,
    RequestReader,
    ResponseFacts,
    ResponseReader,
)
from services.dialects.google_generate_content import FINISH_REASONS, OPERATION, GenerateContentTally
from services.dialects.grpc_answer import GrpcAnswerReader, GrpcRequestReader
from services.dialects.hosts import provider_of
from services.wire.protobuf import Shape, enum, int32, message_of, messages_of, present_int32, text

MODALITY_COUNTS: Shape = {
    1: ("modality", enum({1: "TEXT", 2: "IMAGE", 3: "VIDEO", 4: "AUDIO", 5: "DOCUMENT"})),
    2: ("tokenCount", int32),
}
TOKENS_OF_A_MODALITY = messages_of(MODALITY_COUNTS)

GEMINI_FINISH_REASONS = FINISH_REASONS | {
    6: "LANGUAGE",
    7: "BLOCKLIST",
    8: "PROHIBITED_CONTENT",
    9: "SPII",
    10: "MALFORMED_FUNCTION_CALL",
    11: "IMAGE_SAFETY",
    12: "UNEXPECTED_TOOL_CALL",
    13: "TOO_MANY_TOOL_CALLS",
    14: "IMAGE_PROHIBITED_CONTENT",
    15: "IMAGE_OTHER",
    16: "NO_IMAGE",
    17: "IMAGE_RECITATION",
}
GEMINI_BLOCK_REASONS = {1: "SAFETY", 2: "OTHER", 3: "BLOCKLIST", 4: "PROHIBITED_CONTENT", 5: "IMAGE_SAFETY"}
GEMINI_USAGE: Shape = {
    1: ("promptTokenCount", int32),
    2: ("candidatesTokenCount", int32),
    3: ("totalTokenCount", int32),
    4: ("cachedContentTokenCount", int32),
    5: ("promptTokensDetails", TOKENS_OF_A_MODALITY),
    6: ("cacheTokensDetails", TOKENS_OF_A_MODALITY),
    7: ("candidatesTokensDetails", TOKENS_OF_A_MODALITY),
    8: ("toolUsePromptTokenCount", int32),
    9: ("toolUsePromptTokensDetails", TOKENS_OF_A_MODALITY),
    10: ("thoughtsTokenCount", int32),
}
GEMINI_ANSWER: Shape = {
    1: ("candidates", messages_of({2: ("finishReason", enum(GEMINI_FINISH_REASONS)), 3: ("index", present_int32)})),
    2: ("promptFeedback", message_of({1: ("blockReason", enum(GEMINI_BLOCK_REASONS))})),
    3: ("usageMetadata", message_of(GEMINI_USAGE)),
    4: ("modelVersion", text),
    5: ("responseId", text),
}
GEMINI_REQUEST: Shape = {1: ("model", text)}

VERTEX_FINISH_REASONS = FINISH_REASONS | {
    6: "BLOCKLIST",
    7: "PROHIBITED_CONTENT",
    8: "SPII",
    9: "MALFORMED_FUNCTION_CALL",
    11: "IMAGE_SAFETY",
    12: "IMAGE_PROHIBITED_CONTENT",
    13: "IMAGE_RECITATION",
    14: "IMAGE_OTHER",
    15: "UNEXPECTED_TOOL_CALL",
}
VERTEX_BLOCK_REASONS = {1: "SAFETY", 2: "OTHER", 3: "BLOCKLIST", 4: "PROHIBITED_CONTENT", 6: "IMAGE_SAFETY"}
VERTEX_USAGE: Shape = {
    1: ("promptTokenCount", int32),
    2: ("candidatesTokenCount", int32),
    3: ("totalTokenCount", int32),
    5: ("cachedContentTokenCount", int32),
    8: ("trafficType", enum({1: "ON_DEMAND", 2: "PROVISIONED_THROUGHPUT"})),
    9: ("promptTokensDetails", TOKENS_OF_A_MODALITY),
    10: ("cacheTokensDetails", TOKENS_OF_A_MODALITY),
    11: ("candidatesTokensDetails", TOKENS_OF_A_MODALITY),
    12: ("toolUsePromptTokensDetails", TOKENS_OF_A_MODALITY),
    13: ("toolUsePromptTokenCount", int32),
    14: ("thoughtsTokenCount", int32),
}
VERTEX_ANSWER: Shape = {
    2: ("candidates", messages_of({1: ("index", int32), 3: ("finishReason", enum(VERTEX_FINISH_REASONS))})),
    3: ("promptFeedback", message_of({1: ("blockReason", enum(VERTEX_BLOCK_REASONS))})),
    4: ("usageMetadata", message_of(VERTEX_USAGE)),
    11: ("modelVersion", text),
    13: ("responseId", text),
}
VERTEX_REQUEST: Shape = {5: ("model", text)}

READ_METHODS = frozenset({"GenerateContent", "StreamGenerateContent"})
# Model calls that spend and that nobody here reads; of the service's other methods the name is the operation.
UNREAD_OPERATIONS = {
    "EmbedContent": "embeddings",
    "BatchEmbedContents": "embeddings",
    "BidiGenerateContent": OPERATION,
}
FREE_METHODS = frozenset({"CountTokens", "ComputeTokens"})
# Lists and stores of the Gemini API; they are free by HTTP as well.
FREE_SERVICES = frozenset({"ModelService", "FileService", "CacheService", "PermissionService"})

_PATH = re.compile(r"/(google\.ai\.generativelanguage|google\.cloud\.aiplatform)\.v\w+\.(\w+)/(\w+)")


def _model_of(request: Mapping[str, object]) -> str | None:
    """Return the model without what it belongs to."""
    return name_of(str(request.get("model", "")).rpartition("/")[2])


def _dialect(name: str, package: str, model_service: str, request: Shape, answer: Shape) -> Dialect:
    """Make the dialect of one of the two APIs; its calls are recognised on any host, for a path names the service."""

    def recognise(endpoint: Endpoint) -> Call | None:
        found = _PATH.fullmatch(endpoint.path)
        if found is None or endpoint.method != "POST" or found[1] != package:
            return None
        _, service, method = found.groups()
        provider = provider_of(endpoint.host)
        if method in FREE_METHODS or service in FREE_SERVICES:
            return Call(kind=CallKind.OTHER, provider=provider, operation=method)
        if service != model_service:
            return None
        if method not in READ_METHODS:
            operation = UNREAD_OPERATIONS.get(method, method)
            return Call(kind=CallKind.MODEL_CALL, provider=provider, operation=operation)
        return Call(
            kind=CallKind.MODEL_CALL,
            dialect=name,
            provider=provider,
            operation=OPERATION,
            is_streaming=method == "StreamGenerateContent",
        )

    def request_reader(call: Call) -> RequestReader:
        return GrpcRequestReader(call, request, _model_of)

    def headed_reader(call: Call, response: ResponseFacts, facts: RequestFacts) -> ResponseReader:
        if response.status >= FIRST_ERROR_STATUS:
            return ErrorAnswerReader(call, response.status, facts)
        return GrpcAnswerReader(GenerateContentTally(call, facts), answer, response)

    def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
        return headed_reader(call, ResponseFacts(status=status, content_type=content_type), facts)

    return Dialect(
        name=name,
        recognise=recognise,
        request_reader=request_reader,
        response_reader=response_reader,
        headed_reader=headed_reader,
    )


GEMINI_DIALECT = _dialect(
    "google-gemini-grpc", "google.ai.generativelanguage", "GenerativeService", GEMINI_REQUEST, GEMINI_ANSWER
)
VERTEX_DIALECT = _dialect(
    "google-vertex-grpc", "google.cloud.aiplatform", "PredictionService", VERTEX_REQUEST, VERTEX_ANSWER
)
