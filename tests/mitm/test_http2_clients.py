"""Programs that speak HTTP/2 are metered to the token: Go, which offers nothing else, and curl, which prefers it."""

import contextlib
import json
import random
import shutil
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.mitm.authority import make_leaf, make_leaf_key
from tests.support.eventually import eventually
from tests.support.go import built
from tests.support.mitm import Mitm, mitm
from tests.support.provider import Provider, provider
from tests.support.raw_upstream import upstream_authority

pytestmark = pytest.mark.go
HOST = "api.anthropic.com"
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mitm, Provider]]:
    """A mitm that prefers HTTP/2, before a provider that speaks it."""
    folder = tmp_path_factory.mktemp("http2")
    with (
        provider(folder, names=(HOST,), flags=("--http2",)) as stand_in,
        mitm(folder, ca_file=str(stand_in.ca_file), http2="prefer") as proxy,
    ):
        proxy.upstream_map[HOST] = ("127.0.0.1", stand_in.port)
        yield proxy, stand_in


def go_client(proxy: Mitm, host: str, body: str, requests: int = 1) -> list[dict[str, Any]]:
    """Make requests with Go's client, which offers HTTP/2 only."""
    command = [built("http2_client"), "--connect", f"127.0.0.1:{proxy.port}", "--host", host, "--path", "/v1/messages"]
    command += ["--ca-file", proxy.config.trust_bundle, "--body", "-", "--requests", str(requests)]
    done = subprocess.run(command, input=body.encode(), capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def request(prompt: str, *, stream: bool = True) -> str:
    return json.dumps(
        {
            "model": "claude-sonnet-4-5",
            "max_tokens": 1000,
            "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        }
    )


def assert_metered(proxy: Mitm, answers: list[dict[str, Any]]) -> None:
    """The records say what the stand-in sent, answer by answer."""
    wanted = {answer["response_id"] for answer in answers}
    known: dict[str, dict[str, Any]] = {}

    def all_there() -> bool:
        known.update({record["response_id"]: record for record in proxy.outbox.records})
        return wanted <= known.keys()

    eventually("a record of every answer", all_there)
    for answer in answers:
        record = known[answer["response_id"]]
        assert record["outcome"] == "ok"
        assert record["response_model"] == answer["response_model"]
        assert answer["counts"] and record["usage"].items() >= answer["counts"].items()


@pytest.mark.parametrize("stream", [True, False])
def test_a_go_client_that_offers_http_2_only(metered: tuple[Mitm, Provider], stream: bool) -> None:
    """Many requests at once on its connection."""
    proxy, stand_in = metered
    before = len(stand_in.answers())
    results = go_client(proxy, HOST, request("[[say hello]] [[thoughts 3]]", stream=stream), requests=40)
    assert {(each["proto"], each["status"], each["error"]) for each in results} == {("HTTP/2.0", 200, "")}
    answers = stand_in.answers(after=before, at_least=40)
    assert {answer["proto"] for answer in answers} == {"HTTP/2.0"}
    assert_metered(proxy, answers)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH")
@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_curl_with_and_without_http_2(metered: tuple[Mitm, Provider], version: str) -> None:
    """It gets what it asks for, and what it spends is known either way."""
    proxy, stand_in = metered
    before = len(stand_in.answers())
    command = ["curl", "--silent", "--show-error", "--fail", version, "--cacert", str(proxy.config.trust_bundle)]
    command += ["--proxy", f"http://127.0.0.1:{proxy.port}", "--data", request("[[say hello]]"), "--compressed"]
    command += ["--write-out", "\n%{http_version}", f"https://{HOST}/v1/messages"]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert b"message_stop" in done.stdout
    assert done.stdout.splitlines()[-1] == (b"2" if version == "--http2" else b"1.1")
    assert_metered(proxy, stand_in.answers(after=before, at_least=1))


def test_an_answer_that_the_provider_breaks_off_is_broken_for_the_client(metered: tuple[Mitm, Provider]) -> None:
    """And the record has the last counts."""
    proxy, stand_in = metered
    before, known = len(stand_in.answers()), len(proxy.outbox.records)
    [result] = go_client(proxy, HOST, request("[[cut 3]]"))
    assert "INTERNAL_ERROR" in result["error"] or "unexpected EOF" in result["error"], result
    [answer] = stand_in.answers(after=before, at_least=1)
    [record] = eventually("a record", lambda: proxy.outbox.records[known:])
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "upstream")
    assert record["usage"].items() >= (answer["counts"] or {}).items()


@contextlib.contextmanager
def echo_server(folder: Path, host: str) -> Iterator[tuple[str, int]]:
    """Run Go's server, which sends back what it gets, with trailers."""
    leaf = make_leaf(upstream_authority(), make_leaf_key(), host, upstream_authority().certificate.not_valid_before_utc)
    path = folder / "server.pem"
    path.write_bytes(leaf.certificate_pem() + leaf.key_pem())
    process = subprocess.Popen([built("http2_client"), "--serve", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        address, _, port = process.stdout.readline().decode().strip().rpartition(":")
        yield address, int(port)
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def test_trailers_and_large_bodies_between_go_and_go(proxy: Mitm, tmp_path: Path) -> None:
    """Both directions at once, with the windows of another implementation."""
    host = "echo.upstream.test"
    letters = "".join(random.Random(1).choices(string.ascii_letters, k=3_000_000))
    with echo_server(tmp_path, host) as address:
        proxy.upstream_map[host] = address
        results = go_client(proxy, host, letters, requests=8)
    for result in results:
        assert result["error"] == "" and result["proto"] == "HTTP/2.0"
        assert result["body"] == letters
        assert result["trailers"] == {"X-Received": ["3000000"], "X-Sent": ["3000000"]}
