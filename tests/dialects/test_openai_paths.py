"""OpenAI-shaped APIs are told apart by the ends of their paths: read, spending but unread, free, or unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.dialect import Endpoint
from services.dialects.openai_paths import other_call, path_ending
from services.dialects.recognise import CallKind, recognise

OPENAI = "api.openai.com"


@pytest.mark.parametrize(
    ("host", "method", "target", "operation"),
    [
        (OPENAI, "GET", "/v1/models", "models"),
        (OPENAI, "GET", "/v1/models/gpt-5", "models"),
        (OPENAI, "POST", "/v1/files", "files"),
        (OPENAI, "GET", "/v1/files/file-1/content", "files"),
        (OPENAI, "POST", "/v1/batches", "batches"),
        (OPENAI, "POST", "/v1/uploads/u1/parts", "uploads"),
        (OPENAI, "POST", "/v1/fine_tuning/jobs", "fine_tuning"),
        (OPENAI, "POST", "/v1/moderations", "moderations"),
        (OPENAI, "GET", "/v1/organization/usage/completions", "organization"),
        (OPENAI, "POST", "/v1/conversations", "conversations"),
        (OPENAI, "POST", "/v1/threads", "threads"),
        (OPENAI, "GET", "/v1/threads/t1/runs", "threads"),
        (OPENAI, "POST", "/v1/realtime/client_secrets", "realtime/client_secrets"),
        ("x.openai.azure.com", "GET", "/openai/deployments?api-version=1", "deployments"),
        ("api.groq.com", "GET", "/openai/v1/models", "models"),
        ("openrouter.ai", "GET", "/api/v1/credits", "credits"),
        ("openrouter.ai", "GET", "/api/v1/generation?id=gen-1", "generation"),
        ("api.deepseek.com", "GET", "/user/balance", "user/balance"),
        ("api.githubcopilot.com", "GET", "/models", "models"),
        ("generativelanguage.googleapis.com", "GET", "/v1beta/openai/models", "models"),
        ("localhost:8080", "GET", "/v1/models", "models"),
        ("chatgpt.com", "GET", "/backend-api/codex/models?client_version=1", "codex/models"),
        ("chatgpt.com", "GET", "/backend-api/wham/usage", "wham"),
    ],
)
def test_lists_and_stores_spend_nothing(host: str, method: str, target: str, operation: str) -> None:
    call = recognise(method, host, target)
    assert (call.kind, call.dialect, call.operation) == (CallKind.OTHER, None, operation)


@pytest.mark.parametrize(
    ("host", "method", "target", "operation"),
    [
        (OPENAI, "POST", "/v1/audio/speech", "audio"),
        (OPENAI, "POST", "/v1/audio/transcriptions", "audio"),
        (OPENAI, "GET", "/v1/realtime?model=gpt-realtime", "realtime"),
        (OPENAI, "POST", "/v1/realtime/calls", "realtime"),
        (OPENAI, "POST", "/v1/videos", "videos"),
        (OPENAI, "POST", "/v1/threads/t1/runs", "threads.runs"),
        (OPENAI, "POST", "/v1/threads/runs", "threads.runs"),
        ("api.voyageai.com", "POST", "/v1/rerank", "rerank"),
        ("api.mistral.ai", "POST", "/v1/ocr", "ocr"),
        ("api.mistral.ai", "POST", "/v1/conversations", "conversations"),
        ("chatgpt.com", "POST", "/backend-api/codex/memories/trace_summarize", "memories"),
        ("chatgpt.com", "POST", "/backend-api/f/conversation", "conversation"),
    ],
)
def test_model_calls_that_nobody_reads_are_still_model_calls(
    host: str, method: str, target: str, operation: str
) -> None:
    call = recognise(method, host, target)
    assert (call.kind, call.dialect, call.operation) == (CallKind.MODEL_CALL, None, operation)


@pytest.mark.parametrize(
    ("host", "method", "target"),
    [
        (OPENAI, "POST", "/v1/something_new"),
        (OPENAI, "GET", "/v1/audio/speech"),
        (OPENAI, "POST", "/v1/chat"),
        (OPENAI, "POST", "/v1/chat/completions_of_another_kind"),
        (OPENAI, "POST", "/v1/modelsandmore"),
        (OPENAI, "GET", "/v1/embeddings"),
        ("api.anthropic.com", "POST", "/v1/threads"),
        ("generativelanguage.googleapis.com", "POST", "/v1/batches"),
        ("chatgpt.com", "GET", "/some/page"),
    ],
)
def test_what_only_looks_like_it_stays_unknown(host: str, method: str, target: str) -> None:
    assert recognise(method, host, target).kind is CallKind.UNKNOWN


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/things", None),
        ("/things/", None),
        ("/a/b/deployments/d/things", "d"),
        ("/v1/engines/e/things", "e"),
        ("/deployments/things", None),
    ],
)
def test_a_deployment_or_engine_in_front_of_the_end_is_the_model(path: str, model: str | None) -> None:
    found = path_ending("things").fullmatch(path)
    assert found is not None
    assert found["model"] == model


@given(st.text(max_size=6), st.lists(st.sampled_from(["v1", "openai", "models", "threads", "runs", "api", "%", ""])))
def test_no_path_makes_recognition_fail(method: str, steps: list[str]) -> None:
    other_call(Endpoint(method=method, host=OPENAI, path="/" + "/".join(steps)))
