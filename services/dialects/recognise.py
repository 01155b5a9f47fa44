"""
The door to this stage: a request line goes in, what it is and who reads it comes out.

The table below is all that knows every dialect. Its order matters only where two would claim the same path, which none
of them do. Nothing here raises, whatever a client sends.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import unquote

from services.dialects import (
    anthropic_messages,
    bedrock_converse,
    bedrock_invoke,
    cohere,
    google_cloudcode,
    google_embeddings,
    google_generate_content,
    google_grpc,
    google_interactions,
    ollama,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_images,
    openai_responses,
)
from services.dialects.dialect import (
    Call,
    CallKind,
    Dialect,
    Endpoint,
    RequestFacts,
    RequestReader,
    ResponseFacts,
    ResponseReader,
    SocketReader,
)
from services.dialects.hosts import SELF_HOSTED, host_name, provider_of
from services.dialects.model_names import ModelCatalogueReader
from services.events.usage import Counts

__all__ = [
    "Call",
    "CallKind",
    "RequestFacts",
    "RequestReader",
    "ResponseReader",
    "SocketReader",
    "catalogue_reader",
    "counts_said",
    "reads_headers",
    "recognise",
    "request_reader",
    "response_reader",
    "retrieval_reader",
    "socket_reader",
]

DIALECTS: tuple[Dialect, ...] = (
    google_cloudcode.DIALECT,
    google_generate_content.DIALECT,
    google_grpc.GEMINI_DIALECT,
    google_grpc.VERTEX_DIALECT,
    google_embeddings.DIALECT,
    google_interactions.DIALECT,
    anthropic_messages.DIALECT,
    bedrock_converse.DIALECT,
    bedrock_invoke.DIALECT,
    cohere.CHAT,
    cohere.EMBED,
    cohere.RERANK,
    ollama.DIALECT,
    openai_responses.DIALECT,
    openai_responses.SOCKET_DIALECT,
    openai_embeddings.DIALECT,
    openai_images.DIALECT,
    openai_completions.DIALECT,
    openai_chat.DIALECT,  # knows by name what else OpenAI-shaped APIs have
)

# Questions about an endpoint and no use of it (RFC 9110 §9.3.2, §9.3.7): agents look with HEAD whether they are online,
# browsers ask with OPTIONS before they send.
METHODS_THAT_ASK = frozenset({"HEAD", "OPTIONS"})

# A longer path is recognised anew each time: what is remembered has a bound in bytes, too.
_REMEMBERED_LETTERS_MAX = 512
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


def recognise(method: str, host: str, target: str) -> Call:
    """
    Say what a request is.

    Args:
        method: As on the wire.
        host: The host that is spoken to, with or without its port.
        target: The request target as on the wire: a path with its query, or an absolute URL.
    """
    if "?" in target or "#" in target:
        target = target.partition("?")[0].partition("#")[0]
    if len(target) <= _REMEMBERED_LETTERS_MAX:
        return _recognised(method, host, target)
    return _recognised.__wrapped__(method, host, target)


@lru_cache(maxsize=2048)
def _recognised(method: str, host: str, target: str) -> Call:
    """Without its query, which may hold a key, a target is one of few: an agent asks for the same again and again."""
    endpoint = Endpoint(method=method.upper(), host=host_name(host), path=_path_of(target))
    if endpoint.method in METHODS_THAT_ASK:
        return Call(kind=CallKind.OTHER, provider=provider_of(host), operation=f"({endpoint.method.lower()})")
    for dialect in DIALECTS:
        call = dialect.recognise(endpoint)
        if call is not None and call.provider == SELF_HOSTED:
            return replace(call, provider=provider_of(host))  # its port may tell more
        if call is not None:
            return call
    return Call(kind=CallKind.UNKNOWN, provider=provider_of(endpoint.host))


def request_reader(call: Call) -> RequestReader | None:
    """Return a reader for the request's body, or None where nothing can be learned from it."""
    dialect = _BY_NAME.get(call.dialect or "")
    return dialect.request_reader(call) if dialect else None


def response_reader(
    call: Call,
    *,
    status: int,
    content_type: str,
    facts: RequestFacts,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> ResponseReader | None:
    """
    Return a reader for the response's body, or None for calls that nobody here can read.

    Args:
        status: Of the final response, not of a 1xx before it.
        content_type: Value of the header field; empty when there is none.
        facts: What the request said; `RequestFacts()` when nothing is known.
        headers: Further fields by lower-case name: Bedrock says in them what a body does not.
    """
    dialect = _BY_NAME.get(call.dialect or "")
    if dialect is None:
        return None
    if dialect.headed_reader is None:
        return dialect.response_reader(call, status, content_type, facts)
    return dialect.headed_reader(call, ResponseFacts(status=status, content_type=content_type, headers=headers), facts)


def reads_headers(call: Call) -> bool:
    """Say whether the API says some of its answer in headers: only then `response_reader` looks at them."""
    dialect = _BY_NAME.get(call.dialect or "")
    return dialect is not None and dialect.headed_reader is not None


def socket_reader(call: Call, facts: RequestFacts) -> SocketReader | None:
    """Return a reader for the messages of a WebSocket that the call has opened, or None where nobody can read them."""
    dialect = _BY_NAME.get(call.dialect or "")
    return dialect.socket_reader(call, facts) if dialect and dialect.socket_reader else None


def counts_said(dialect_name: str, said: list[object]) -> Counts:
    """Return the counts that an answer of this dialect has said; see `Dialect.counts_said`."""
    dialect = _BY_NAME.get(dialect_name)
    return dialect.counts_said(said) if dialect and dialect.counts_said else {}


def catalogue_reader(call: Call) -> ModelCatalogueReader | None:
    """Return a reader for an answer that lists models, which teaches their names; None for every other call."""
    return ModelCatalogueReader() if call.operation == google_cloudcode.CATALOGUE_VERB else None


def retrieval_reader(call: Call, *, status: int, content_type: str) -> ResponseReader | None:
    """Return a reader for a past response that is asked for again, for `BackgroundResponses`; None for other calls."""
    if call.operation != openai_responses.RETRIEVAL:
        return None
    return openai_responses.response_reader(call, status, content_type, RequestFacts())


def _path_of(target: str) -> str:
    """Return the percent-decoded path of a request target."""
    if target[:1] != "/" and "://" in target:
        target = "/" + target.partition("://")[2].partition("/")[2]
    return unquote(target)
