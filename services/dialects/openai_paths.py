"""
The paths of OpenAI-shaped APIs: which end in a model call, which of those nobody here reads, and which spend nothing.

Dozens of providers serve these paths, each under a prefix of its own (`/v1`, `/openai/v1`, `/api/v1`, none at all), so
they are known by their ends. On Azure the deployment stands in front of the end and names the model, as did the engine
in OpenAI's first API.
"""

import re

from services.dialects.dialect import Call, CallKind, Endpoint
from services.dialects.hosts import provider_of

# These have their own lists and stores under the same names, which their dialects know.
OTHER_SHAPES = frozenset({"gcp.gen_ai", "gcp.gemini", "gcp.vertex_ai", "anthropic", "cohere"})

# Lists, stores and accounts. Work that a batch or a tuning job does later is reported in files that are fetched later.
_FREE_PATH = re.compile(
    r"(?:(?:/[^/]+)*?/(?:v\d\w*|openai|api))?/"
    r"(models|files|uploads|batches|batch/jobs|fine_tuning|fine-tunes|vector_stores|containers|assistants|conversations|"
    r"moderations|organization|evals|skills|prompts|webhooks|usage|dashboard|deployments|"
    r"key|keys|auth/key|credits|generation|providers|user/balance|"
    r"realtime/(?:sessions|client_secrets|transcription_sessions)|threads)(?:/.*)?"
)
_CHATGPT_FREE_PATH = re.compile(
    r"/(?:backend-api/)?(me|wham|accounts|settings|plugins|ps|connectors|aip|sentinel|ces|public-api|"
    r"codex/(?:models|analytics-events|environments|plugins|safety|tasks|usage))(?:/.*)?"
)

# Ends of paths that make a model work, and whose answers nobody here reads yet -> operation.
_UNREAD = (
    (re.compile(r".*/audio/(?:speech|transcriptions|translations)/?"), "audio"),
    (re.compile(r".*/realtime(?:/calls(?:/.*)?)?/?"), "realtime"),
    (re.compile(r".*/videos/?"), "videos"),
    (re.compile(r".*/threads/(?:[^/]+/)?runs/?"), "threads.runs"),
    (re.compile(r".*/evals/[^/]+/runs/?"), "evals.runs"),
    (re.compile(r".*/rerank/?"), "rerank"),
    (re.compile(r".*/ocr/?"), "ocr"),
    (re.compile(r"/backend-api/codex/memories/.*"), "memories"),
    (re.compile(r"/backend-api/(?:f/)?conversation/?"), "conversation"),
)
_MISTRAL_CONVERSATION = re.compile(r"/v1/conversations(?:/.*)?")

# A WebSocket is asked for with GET on HTTP/1.1, with CONNECT on HTTP/2 (RFC 8441).
SOCKET_METHODS = frozenset({"GET", "CONNECT"})


def path_ending(*ends: str) -> re.Pattern[str]:
    """Return a pattern for paths that end in one of `ends`, with the group `model` where the path names a model."""
    return re.compile(rf"(?:.*/(?:deployments|engines)/(?P<model>[^/]+)|.*)/(?:{'|'.join(ends)})/?")


def model_call(endpoint: Endpoint, pattern: re.Pattern[str], dialect: str, operation: str) -> Call | None:
    """Return the model call that a POST to a path of this pattern is."""
    found = pattern.fullmatch(endpoint.path) if endpoint.method == "POST" else None
    if found is None:
        return None
    return Call(
        kind=CallKind.MODEL_CALL,
        dialect=dialect,
        provider=provider_of(endpoint.host),
        operation=operation,
        request_model=found["model"],
    )


def other_call(endpoint: Endpoint) -> Call | None:
    """Return what the other endpoints are: model calls that nobody reads, or names that spend nothing."""
    provider = provider_of(endpoint.host)
    if provider in OTHER_SHAPES and "/openai/" not in endpoint.path:
        return None
    if operation := _unread_operation(endpoint, provider):
        return Call(kind=CallKind.MODEL_CALL, provider=provider, operation=operation)
    found = _FREE_PATH.fullmatch(endpoint.path)
    if found is None and endpoint.host == "chatgpt.com":
        found = _CHATGPT_FREE_PATH.fullmatch(endpoint.path)
    return Call(kind=CallKind.OTHER, provider=provider, operation=found[1]) if found else None


def _unread_operation(endpoint: Endpoint, provider: str) -> str | None:
    if endpoint.method == "POST" and provider == "mistral_ai" and _MISTRAL_CONVERSATION.fullmatch(endpoint.path):
        return "conversations"
    for pattern, operation in _UNREAD:
        if pattern.fullmatch(endpoint.path):
            asks = endpoint.method == "POST" or (operation == "realtime" and endpoint.method in SOCKET_METHODS)
            return operation if asks else None
    return None
