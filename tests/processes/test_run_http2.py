"""Programs that speak HTTP/2 under `wiremeter run`, where mitm prefers it, gRPC among them: exact to the token."""

import json
import shutil
import sys
from collections.abc import Iterator

import pytest

from tests.support.go import FAKES, built
from tests.support.metered import ANTHROPIC, GEMINI, Metered, metered, summary_of

pytestmark = [
    pytest.mark.go,
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
MODEL = "gemini-3-flash"
STREAM = f"https://{GEMINI}/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
MESSAGES = f"https://{ANTHROPIC}/v1/messages"
ORDER = {"model": "claude-sonnet-4-5", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
CURL = ("curl", "-sS", "-N", "-o", "/dev/null", "--fail", "--compressed", "-d", json.dumps(ORDER))
CLIENTS = {
    "curl --http2": ((*CURL, "--http2", MESSAGES), "HTTP/2.0"),
    "curl --http1.1": ((*CURL, "--http1.1", MESSAGES), "HTTP/1.1"),
    "go": (("go_client", STREAM), "HTTP/2.0"),
}
GRPC = {"grpc-go": "grpc_client", "grpcio": str(FAKES / "sdks" / "grpc_client.py")}


@pytest.fixture(scope="module")
def system() -> Iterator[Metered]:
    with metered(settings={"WIREMETER_MITM_HTTP2": "prefer"}, flags=("--http2",)) as running:
        yield running


@pytest.mark.parametrize("client", CLIENTS)
def test_either_protocol_is_metered_to_the_token(system: Metered, client: str) -> None:
    """The provider is spoken to in the client's own."""
    (name, *arguments), protocol = CLIENTS[client]
    before = len(system.provider.answers())
    done = system.run(str(built(name)) if name == "go_client" else name, *arguments)
    assert done.returncode == 0, done.stderr
    found = summary_of(done)
    [answer] = system.provider.answers(after=before)
    assert answer["proto"] == protocol
    assert (found["is_complete"], found["totals"]["usage"]) == (True, answer["counts"])
    [record] = system.records_of(found["run"])
    assert (record["outcome"], record["response_id"]) == ("ok", answer["response_id"])


def grpc_program(client: str) -> tuple[str, ...]:
    if client == "grpcio":
        pytest.importorskip("grpc", reason="grpcio is not installed (pip install grpcio)")
    program = (str(built(GRPC[client])),) if client == "grpc-go" else (sys.executable, GRPC[client])
    return (*program, f"{GEMINI}:443", MODEL)


@pytest.mark.parametrize("client", GRPC)
def test_grpc_is_metered_to_the_token(system: Metered, client: str) -> None:
    """A call that is answered by one message, and one that is answered by a stream of them."""
    before = len(system.provider.answers())
    done = system.run(*grpc_program(client), label=client)
    assert done.returncode == 0, done.stderr
    answers = whole, stream = system.provider.answers(after=before)
    assert {whole["dialect"], stream["dialect"]} == {"google-gemini-grpc"}
    assert done.stdout.splitlines()[0] == f"1 {stream['events_sent']}"
    found = summary_of(done)
    sent = {name: whole["counts"][name] + stream["counts"].get(name, 0) for name in whole["counts"]}
    assert (found["is_complete"], found["totals"]["usage"], found["totals"]["unknown"]) == (True, sent, 0)
    records = {record["response_id"]: record for record in system.records_of(found["run"])}
    assert len(records) == len(answers)
    for answer in answers:
        record = records[answer["response_id"]]
        assert (record["outcome"], record["dialect"]) == ("ok", "google-gemini-grpc")
        assert (record["request_model"], record["response_model"]) == (MODEL, answer["response_model"])
        assert (record["usage"], record["finish_reasons"]) == (answer["counts"], [answer["finish_reason"]])
        assert record["client"]["label"] == client


@pytest.mark.parametrize("client", GRPC)
def test_a_grpc_status_that_is_an_error_is_one(system: Metered, client: str) -> None:
    """Its HTTP status is 200 all the same."""
    system.provider.order(status=429, times=1)
    done = system.run(*grpc_program(client))
    assert done.returncode != 0
    assert "as ordered" in done.stderr
    [record] = system.records_of(summary_of(done)["run"])
    assert (record["outcome"], record["error_type"], record["http_status"]) == ("error", "RESOURCE_EXHAUSTED", 200)
    assert (record["usage"], record["request_model"]) == ({}, MODEL)
