"""The providers' own SDKs under `wiremeter run`: ledger and summary have what the stand-in sent, as the SDKs have."""

import importlib.util
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.go import FAKES
from tests.support.metered import Metered, metered, summary_of

pytestmark = [
    pytest.mark.go,
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
# Program in tests/fakes/sdks, the package it needs, its calls.
SDKS = {
    "openai": (
        "openai",
        ("chat", "chat_stream_with_usage", "responses", "responses_stream", "responses_socket")
        + ("responses_socket_compressed", "embeddings", "asynchronous"),
    ),
    "anthropic": ("anthropic", ("messages", "messages_stream", "asynchronous")),
    "google": ("google.genai", ("generate", "generate_stream", "asynchronous")),
    "mistral": ("mistralai", ("chat", "chat_stream", "embeddings", "asynchronous")),
    "bedrock": ("boto3", ("converse", "converse_by_profile", "converse_stream", "invoke", "invoke_stream")),
}
CALLS = [(sdk, call) for sdk, (_, calls) in SDKS.items() for call in calls]
# The service sends its cache counts twice; boto3 leaves out what its model of the service does not have.
UNKNOWN_TO_BOTO3 = {"cacheReadInputTokenCount", "cacheWriteInputTokenCount"}
# Long enough for the stand-in to report cached tokens, which is where dialects differ most.
PROMPT = "Say hi. " * 60


@pytest.fixture(scope="module")
def system() -> Iterator[Metered]:
    with metered() as running:
        yield running


def program(sdk: str, call: str, prompt: str = PROMPT) -> tuple[str, ...]:
    """Write the command that makes one call."""
    package = SDKS[sdk][0]
    if not is_installed(package):
        pytest.skip(f"{package} is not installed")
    return sys.executable, str(FAKES / "sdks" / f"{sdk}_client.py"), call, prompt


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # google itself is missing
        return False


def run(system: Metered, sdk: str, call: str, cwd: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[Any]]:
    """Make the call; return the summary, the stand-in's account, and what the SDK made of it."""
    before = len(system.provider.answers())
    done = system.run(*program(sdk, call), label=sdk, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return summary_of(done), system.provider.answers(after=before), json.loads(done.stdout.splitlines()[0])


def has(seen: Any, sent: Mapping[str, Any]) -> bool:
    """Whether all that was sent was seen; an SDK may add to it."""
    return all(
        has(seen[key], value) if isinstance(value, dict) else seen[key] == value
        for key, value in sent.items()
        if key not in UNKNOWN_TO_BOTO3
    )


@pytest.mark.parametrize(("sdk", "call"), CALLS, ids=[f"{sdk}-{call}" for sdk, call in CALLS])
def test_an_sdk_is_metered_to_the_token(system: Metered, sdk: str, call: str, tmp_path: Path) -> None:
    found, answers, seen = run(system, sdk, call, tmp_path)
    if call.startswith("responses_socket"):
        assert len(answers) == 2
        assert [answer["coded"] for answer in answers] == [call.endswith("compressed")] * 2
    else:
        assert len(answers) == 1
    assert all(has(*pair) for pair in zip(seen, [answer["usage"] for answer in answers], strict=True))
    sent: Counter[str] = Counter()
    for answer in answers:
        sent.update(answer["counts"])
    assert sent["input_tokens"] > 0
    assert (found["is_complete"], found["totals"]["requests"]) == (True, len(answers))
    assert found["totals"]["usage"] == dict(sent)
    records = sorted(system.records_of(found["run"]), key=lambda record: record["seq"])
    for record, answer in zip(records, answers, strict=True):
        assert (record["outcome"], record["usage"]) == ("ok", answer["counts"])
        assert record["request_model"] == answer["request_model"]
        for name in ("response_id", "response_model"):
            assert record[name] == answer.get(name)
        assert (record["dialect"], record["client"]["label"]) == (dialect_of(answer), sdk)


def dialect_of(answer: Mapping[str, Any]) -> str:
    return "google-generate-content" if answer["dialect"] == "google-gemini" else answer["dialect"]


def test_a_stream_that_was_not_asked_for_usage_is_unknown_and_not_zero(system: Metered, tmp_path: Path) -> None:
    """OpenAI's chat streams report nothing unless the program asks; the record says so."""
    found, [answer], seen = run(system, "openai", "chat_stream", tmp_path)
    assert (answer["usage"], seen) == (None, [None])
    assert (found["totals"]["usage"], found["totals"]["outcomes"]) == ({}, {"no_usage": 1})
    [record] = system.records_of(found["run"])
    assert "include_usage" in record["reason"] and record["response_id"] == answer["response_id"]
