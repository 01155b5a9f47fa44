"""The provider stand-in: what it says that it sent is what our own dialects read from what it sent."""

import http.client
import json
import ssl
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from services.dialects.recognise import recognise, request_reader, response_reader
from services.events.usage import Outcome, ResponseUsage
from tests.support.provider import Provider, provider

pytestmark = pytest.mark.go

GEMINI_BODY = {"contents": [{"role": "user", "parts": [{"text": "{}"}]}]}
MESSAGES = [{"role": "user", "content": "{}"}]
BLOCKS = [{"role": "user", "content": [{"text": "{}"}]}]
BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"
NOVA, CLAUDE = "amazon.nova-pro-v1%3A0", "us.anthropic.claude-sonnet-4-5-20250929-v1%3A0"
CALLS = {
    "cloudcode stream": (
        "daily-cloudcode-pa.googleapis.com",
        "/v1internal:streamGenerateContent?alt=sse",
        {"model": "gemini-3-flash", "requestId": "agent/c0ffee/1/t/2", "request": GEMINI_BODY},
    ),
    "cloudcode array": (
        "daily-cloudcode-pa.googleapis.com",
        "/v1internal:streamGenerateContent",
        {"model": "claude-sonnet-4-6-thinking", "request": GEMINI_BODY},
    ),
    "cloudcode whole": (
        "cloudcode-pa.googleapis.com",
        "/v1internal:generateContent",
        {"model": "gemini-3-flash", "request": GEMINI_BODY},
    ),
    "gemini stream": (
        "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-3-flash:streamGenerateContent?alt=sse",
        GEMINI_BODY,
    ),
    "gemini whole": (
        "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-3-flash:generateContent",
        GEMINI_BODY,
    ),
    "anthropic stream": (
        "api.anthropic.com",
        "/v1/messages",
        {"model": "claude-haiku-4-5", "stream": True, "messages": [{"role": "user", "content": "{}"}]},
    ),
    "anthropic whole": (
        "api.anthropic.com",
        "/v1/messages",
        {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": [{"type": "text", "text": "{}"}]}]},
    ),
    "openai chat stream": (
        "api.openai.com",
        "/v1/chat/completions",
        {"model": "gpt-5.2", "stream": True, "stream_options": {"include_usage": True}, "messages": MESSAGES},
    ),
    "openai chat whole": ("api.openai.com", "/v1/chat/completions", {"model": "gpt-5.2", "messages": MESSAGES}),
    "openai responses stream": ("api.openai.com", "/v1/responses", {"model": "gpt-5.2", "stream": True, "input": "{}"}),
    "openai responses whole": ("api.openai.com", "/v1/responses", {"model": "gpt-5.2", "input": MESSAGES}),
    "openai embeddings": ("api.openai.com", "/v1/embeddings", {"model": "text-embedding-3-small", "input": ["{}"]}),
    "mistral stream": (
        "api.mistral.ai",
        "/v1/chat/completions",
        {"model": "mistral-small", "stream": True, "messages": MESSAGES},
    ),
    "mistral whole": ("api.mistral.ai", "/v1/chat/completions", {"model": "mistral-small", "messages": MESSAGES}),
    "bedrock converse stream": (BEDROCK, f"/model/{NOVA}/converse-stream", {"messages": BLOCKS}),
    "bedrock converse whole": (BEDROCK, f"/model/{NOVA}/converse", {"messages": BLOCKS}),
    "bedrock invoke stream": (BEDROCK, f"/model/{CLAUDE}/invoke-with-response-stream", {"messages": MESSAGES}),
    "bedrock invoke whole": (BEDROCK, f"/model/{CLAUDE}/invoke", {"messages": MESSAGES}),
}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


def exchange(stand_in: Provider, name: str, prompt: str, *, gzip: bool) -> tuple[ResponseUsage, dict[str, Any]]:
    """Make a call, read it as mitm does, and return that beside what the stand-in accounts for."""
    host, path, body = CALLS[name]
    content = json.dumps(body).replace('"{}"', json.dumps(prompt)).encode()
    before = len(stand_in.answers())
    connection = http.client.HTTPSConnection(
        "127.0.0.1", stand_in.port, timeout=10, context=ssl.create_default_context(cafile=str(stand_in.ca_file))
    )
    headers = {"Host": host, "Accept-Encoding": "gzip"} if gzip else {"Host": host, "Accept-Encoding": "identity"}
    connection.request("POST", path, content, headers)
    call = recognise("POST", host, path)
    request = request_reader(call)
    assert request is not None
    request.feed(content)
    response = connection.getresponse()
    reader = response_reader(
        call,
        status=response.status,
        content_type=response.getheader("Content-Type", ""),
        facts=request.facts(),
        headers={name.lower(): value for name, value in response.getheaders()},
    )
    assert reader is not None
    inflate = zlib.decompressobj(wbits=31).decompress if gzip and response.getheader("Content-Encoding") else bytes
    complete = True
    try:
        while piece := response.read1(4096):
            reader.feed(inflate(piece))
    except http.client.IncompleteRead:
        complete = False
    connection.close()
    [account] = stand_in.answers(after=before, at_least=1)
    return reader.end(complete=complete)[0], account


@pytest.mark.parametrize("gzip", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("name", CALLS)
def test_its_account_is_what_was_on_the_wire(stand_in: Provider, name: str, gzip: bool) -> None:
    read, account = exchange(stand_in, name, "naïve ✓", gzip=gzip)
    assert read.outcome is Outcome.OK
    assert dict(read.counts) == account["counts"]
    assert (read.response_id, read.response_model) == (account.get("response_id"), account.get("response_model"))
    assert read.request_model == account["request_model"]
    assert account["complete"] is True
    assert account["coded"] is gzip


@pytest.mark.parametrize("name", [name for name in CALLS if name.endswith("stream")])
def test_a_broken_stream_is_accounted_for_as_far_as_it_went(stand_in: Provider, name: str) -> None:
    read, account = exchange(stand_in, name, "[[cut 3]] [[events 8]]", gzip=False)
    assert read.outcome is Outcome.TRUNCATED
    assert dict(read.counts) == (account["counts"] or {})
    assert account["complete"] is False


@pytest.mark.parametrize("name", CALLS)
def test_errors_are_accounted_for_without_usage(stand_in: Provider, name: str) -> None:
    read, account = exchange(stand_in, name, "[[status 429]]", gzip=False)
    assert read.outcome is Outcome.ERROR
    assert (account["http_status"], account["usage"]) == (429, None)


def test_usage_can_be_left_out(stand_in: Provider) -> None:
    for name in CALLS:
        read, account = exchange(stand_in, name, "[[no-usage]]", gzip=False)
        assert read.outcome is Outcome.NO_USAGE
        assert account["usage"] is None


def test_standing_orders_count_down(stand_in: Provider) -> None:
    stand_in.order(status=503, times=1)
    assert exchange(stand_in, "gemini whole", "hi", gzip=False)[1]["http_status"] == 503
    assert exchange(stand_in, "gemini whole", "hi", gzip=False)[1]["http_status"] == 200
    stand_in.order(status=500)
    stand_in.order()
    assert exchange(stand_in, "gemini whole", "hi", gzip=False)[1]["http_status"] == 200


def test_each_request_is_listed(stand_in: Provider) -> None:
    before = len(stand_in.requests())
    exchange(stand_in, "anthropic whole", "hi", gzip=False)
    [request] = stand_in.requests(after=before)
    assert (request["method"], request["host"], request["path"]) == ("POST", "api.anthropic.com", "/v1/messages")


@pytest.mark.parametrize("kind", ["expired", "not-yet", "other-name", "self-signed"])
def test_bad_certificates_are_bad(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    with provider(tmp_path_factory.mktemp("bad"), flags=("--certificate", kind)) as bad:
        context = ssl.create_default_context(cafile=str(bad.ca_file))
        connection = http.client.HTTPSConnection("127.0.0.1", bad.port, timeout=10, context=context)
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.request("GET", "/")
        connection.close()
