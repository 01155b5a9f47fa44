"""Legacy completions are read like chat, under an operation of their own."""

import pytest

from services.dialects.recognise import CallKind, recognise


@pytest.mark.parametrize(
    ("host", "target", "model"),
    [
        ("api.openai.com", "/v1/completions", None),
        ("api.openai.com", "/v1/engines/davinci/completions", "davinci"),
        ("x.openai.azure.com", "/openai/deployments/old/completions?api-version=1", "old"),
        ("api.deepseek.com", "/beta/completions", None),
        ("codestral.mistral.ai", "/v1/fim/completions", None),
    ],
)
def test_completions_are_recognised_by_the_end_of_the_path(host: str, target: str, model: str | None) -> None:
    call = recognise("POST", host, target)
    assert (call.dialect, call.operation, call.request_model) == ("openai-completions", "text_completion", model)


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/agents/completions"])
def test_chat_is_not_one_of_them(target: str) -> None:
    assert recognise("POST", "api.mistral.ai", target).dialect == "openai-chat"


def test_only_a_post_is_one() -> None:
    assert recognise("GET", "api.openai.com", "/v1/completions").kind is CallKind.UNKNOWN
