"""Every request is recognised by its method, host and path, and none of them makes recognition fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.recognise import (
    DIALECTS,
    Call,
    CallKind,
    RequestFacts,
    catalogue_reader,
    reads_headers,
    recognise,
    request_reader,
    response_reader,
)

BEDROCK, NOVA = "bedrock-runtime.eu-west-1.amazonaws.com", "amazon.nova-pro-v1:0"
VERTEX = "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro"


@pytest.mark.parametrize(
    ("host", "target", "provider", "dialect", "model", "is_streaming"),
    [
        ("cloudcode-pa.googleapis.com", "/v1internal:generateContent", "gcp.gen_ai", "google-cloudcode", None, False),
        (
            "generativelanguage.googleapis.com:443",
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse&key=x",
            "gcp.gemini",
            "google-generate-content",
            "gemini-2.5-flash",
            True,
        ),
        (
            "us-central1-aiplatform.googleapis.com",
            f"{VERTEX}:generateContent",
            "gcp.vertex_ai",
            "google-generate-content",
            "gemini-2.5-pro",
            False,
        ),
        ("API.Anthropic.com", "/v1/messages", "anthropic", "anthropic-messages", None, None),
        ("api.anthropic.com", "https://api.anthropic.com/v1/messages", "anthropic", "anthropic-messages", None, None),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/gemini-embedding-001:batchEmbedContents",
            "gcp.gemini",
            "google-embeddings",
            "gemini-embedding-001",
            False,
        ),
        ("generativelanguage.googleapis.com", "/v1beta/interactions", "gcp.gemini", "google-interactions", None, None),
        (BEDROCK, "/model/amazon.nova-pro-v1%3A0/converse", "aws.bedrock", "bedrock-converse", NOVA, False),
        (BEDROCK, "/model/amazon.nova-pro-v1%3A0/converse-stream", "aws.bedrock", "bedrock-converse", NOVA, True),
        (BEDROCK, "/model/amazon.nova-pro-v1:0/invoke", "aws.bedrock", "bedrock-invoke", NOVA, False),
        (
            BEDROCK,
            "/model/amazon.nova-pro-v1:0/invoke-with-response-stream",
            "aws.bedrock",
            "bedrock-invoke",
            NOVA,
            True,
        ),
        ("api.cohere.com", "/v2/chat", "cohere", "cohere-chat", None, None),
        ("api.cohere.ai", "/v1/generate", "cohere", "cohere-chat", None, None),
        ("api.cohere.com", "/v1/embed", "cohere", "cohere-embed", None, None),
        ("localhost:11434", "/api/chat", "ollama", "ollama-native", None, None),
        ("api.openai.com", "/v1/chat/completions", "openai", "openai-chat", None, None),
        ("api.openai.com", "/v1/completions", "openai", "openai-completions", None, None),
        ("api.openai.com", "/v1/embeddings", "openai", "openai-embeddings", None, None),
        ("api.openai.com", "/v1/images/edits", "openai", "openai-images", None, None),
        ("api.openai.com", "/v1/responses", "openai", "openai-responses", None, None),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/tunedModels/my%20own%3AgenerateContent",
            "gcp.gemini",
            "google-generate-content",
            "my own",
            False,
        ),
    ],
)
def test_model_calls_are_recognised(
    host: str, target: str, provider: str, dialect: str, model: str | None, is_streaming: bool | None
) -> None:
    call = recognise("POST", host, target)
    assert call.kind is CallKind.MODEL_CALL
    assert (call.provider, call.dialect, call.request_model) == (provider, dialect, model)
    assert call.is_streaming is is_streaming


@pytest.mark.parametrize(
    ("target", "kind", "operation"),
    [
        ("/v1beta/models/gemini-2.5-flash:countTokens", CallKind.OTHER, "countTokens"),
        ("/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent", CallKind.MODEL_CALL, "embeddings"),
        (f"{VERTEX}:predict", CallKind.MODEL_CALL, "predict"),
        ("/v1beta/models/gemini-2.5-flash:somethingNew", CallKind.UNKNOWN, None),
        ("/v1beta/models", CallKind.OTHER, "models"),
        ("/v1beta/models/gemini-2.5-flash?key=x", CallKind.OTHER, "models"),
        ("/upload/v1beta/files?uploadType=resumable", CallKind.OTHER, "files"),
        ("/v1beta/interactions/v1_x/cancel", CallKind.OTHER, "interactions"),
        ("/", CallKind.UNKNOWN, None),
        ("*", CallKind.UNKNOWN, None),
    ],
)
def test_what_has_no_reader_is_told_apart(target: str, kind: CallKind, operation: str | None) -> None:
    """Free, spending but unread, or unknown: three different things."""
    call = recognise("POST", "generativelanguage.googleapis.com", target)
    assert (call.kind, call.dialect, call.operation) == (kind, None, operation)
    assert request_reader(call) is None
    assert response_reader(call, status=200, content_type="", facts=RequestFacts()) is None


def test_the_catalogue_of_models_teaches_their_names() -> None:
    assert catalogue_reader(recognise("POST", "cloudcode-pa.googleapis.com", "/v1internal:fetchAvailableModels"))
    assert catalogue_reader(recognise("POST", "cloudcode-pa.googleapis.com", "/v1internal:loadCodeAssist")) is None


def test_only_a_post_is_a_model_call() -> None:
    assert recognise("GET", "api.cohere.com", "/v2/chat").kind is not CallKind.MODEL_CALL
    assert recognise("GET", "localhost", "/api/chat").kind is not CallKind.MODEL_CALL
    assert recognise("GET", BEDROCK, "/model/m/converse").kind is not CallKind.MODEL_CALL
    targets = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/images/edits", "/v1/responses/compact")
    for target in (*targets, "/v1/messages", "/v1internal:generateContent", f"{VERTEX}:generateContent"):
        for method in ("GET", "OPTIONS", "HEAD", "PUT"):
            assert recognise(method, "api.anthropic.com", target).kind is not CallKind.MODEL_CALL


@given(st.text(max_size=8), st.text(max_size=30), st.text(max_size=60))
def test_recognition_never_fails(method: str, host: str, target: str) -> None:
    for prefix in ("", "/", "http://", "/v1internal:", "/models/", "//"):
        assert isinstance(recognise(method, host, prefix + target), Call)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_has_a_name_of_its_own_and_both_readers(dialect) -> None:
    assert [other.name for other in DIALECTS].count(dialect.name) == 1
    call = Call(kind=CallKind.MODEL_CALL, dialect=dialect.name, operation="chat")
    reader = request_reader(call)
    assert reader is not None
    reader.feed(b"no JSON at all")
    assert reader.facts() == RequestFacts()
    for status in (200, 500):
        assert response_reader(call, status=status, content_type="", facts=RequestFacts()) is not None


def test_headers_are_wanted_where_an_api_says_something_in_them() -> None:
    """Of all other answers nobody need look at them."""
    assert reads_headers(recognise("POST", BEDROCK, f"/model/{NOVA}/invoke"))
    assert not reads_headers(recognise("POST", "api.anthropic.com", "/v1/messages"))
    assert not reads_headers(recognise("GET", "api.anthropic.com", "/unknown"))
