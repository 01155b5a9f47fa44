"""Programs that speak HTTP/2 under `wiremeter run`, where mitm prefers it: exact to the token, and gRPC as unknown."""

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


@pytest.mark.parametrize("client", GRPC)
def test_grpc_passes_and_is_unknown_and_not_zero(system: Metered, client: str) -> None:
    """Its messages are not read: each call has a record that says so, and the sums say that they lack it."""
    if client == "grpcio":
        pytest.importorskip("grpc", reason="grpcio is not installed (pip install grpcio)")
    program = (str(built(GRPC[client])),) if client == "grpc-go" else (sys.executable, GRPC[client])
    before = len(system.provider.answers())
    done = system.run(*program, f"{GEMINI}:443", MODEL, label=client)
    assert done.returncode == 0, done.stderr
    whole, stream = system.provider.answers(after=before)
    assert {whole["dialect"], stream["dialect"]} == {"google-gemini-grpc"}
    assert done.stdout.splitlines()[0] == f"1 {stream['events_sent']}"
    found = summary_of(done)
    assert (found["totals"]["usage"], found["totals"]["unknown"]) == ({}, 2)
    records = system.records_of(found["run"])
    assert [(record["outcome"], record["reason"]) for record in records] == [
        ("unreadable", "gRPC messages are not read")
    ] * 2
    assert {record["client"]["label"] for record in records} == {client}
