"""The simulated provider as an HTTPS server."""

import asyncio
import contextlib
import json
import ssl
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
import uvloop

from services.lsrunner.upstream import SimulatedProvider
from services.runtime.logs import Logs
from services.runtime.state import StateDirectory
from tests.support.checkout import free_ports
from tests.support.lsrunner import SIMULATED_HOST, make_certificates, short_directory

CALL = {"model": "simulated-flash", "request": {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}}


class Client:
    """Calls the provider, and verifies its certificate for the name that mitm calls it by."""

    def __init__(self, session: aiohttp.ClientSession, port: int, state: StateDirectory) -> None:
        self._session = session
        self._port = port
        self._trust = ssl.create_default_context(cafile=str(state.trust_bundle))

    def post(self, method: str, body: object, **headers: str):
        """Call a method."""
        url = f"https://127.0.0.1:{self._port}/v1internal:{method}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Accept-Encoding": "identity"} | headers
        return self._session.post(url, data=data, headers=headers, ssl=self._trust, server_hostname=SIMULATED_HOST)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Make a connection and say nothing yet."""
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._trust, server_hostname=SIMULATED_HOST)

    async def succeeds(self) -> None:
        """Call until it answers."""
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with self.post("loadCodeAssist", {}) as response:
                        assert response.status == 200
                        return
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[Client]:
    """Serve; the certificate comes a moment later, as mitm's does."""
    with short_directory() as home:
        state = StateDirectory(home=home)
        state.make()
        [port] = free_ports(1)
        subject = SimulatedProvider(port, state.simulator / "provider.pem", Logs("lsrunner"))
        async with asyncio.TaskGroup() as group, aiohttp.ClientSession(auto_decompress=False) as session:
            serving = group.create_task(subject.serve())
            assert subject.problem is not None
            make_certificates(state)
            client = Client(session, port, state)
            await client.succeeds()
            assert subject.problem is None
            yield client
            serving.cancel()


def test_an_answer_streams_in_the_providers_own_form():
    """Events end in CR LF CR LF; trace ids agree; the last event has the counts."""

    async def story():
        async with provider() as client, client.post("streamGenerateContent?alt=sse", CALL) as response:
            body = await response.read()
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
            *events, rest = body.split(b"\r\n\r\n")
            assert rest == b""
            last = json.loads(events[-1].removeprefix(b"data: "))
            assert last["response"]["usageMetadata"]["promptTokenCount"] == 2
            assert last["traceId"] == response.headers["X-CloudAICompanion-Trace-Id"]

    uvloop.run(story())


def test_an_answer_is_coded_when_that_is_asked_for():
    """Event by event, so that it still streams; the whole is the same."""

    async def story():
        async with provider() as client:
            async with client.post("streamGenerateContent?alt=sse", CALL, **{"Accept-Encoding": "gzip"}) as response:
                assert response.headers["Content-Encoding"] == "gzip"
                first = await response.content.readany()
                decoder = zlib.decompressobj(31)
                assert decoder.decompress(first).endswith(b"\r\n\r\n")
                rest = decoder.decompress(await response.content.read())
                assert b"STOP" in rest
                assert decoder.eof
            async with client.post("loadCodeAssist", {}, **{"Accept-Encoding": "gzip"}) as response:
                whole = json.loads(zlib.decompress(await response.read(), 31))
                assert whole["currentTier"]["id"] == "simulated-tier"

    uvloop.run(story())


def test_errors_have_the_stream_s_type_and_google_s_form():
    """As the real one's, which is a trap for readers."""

    async def story():
        async with provider() as client:
            asked = {**CALL, "model": "unknown"}
            for method, body, status in [
                ("streamGenerateContent?alt=sse", asked, 404),
                ("streamGenerateContent?alt=sse", b"no JSON", 400),
                ("noSuchMethod", {}, 404),
            ]:
                async with client.post(method, body) as response:
                    assert response.status == status
                    assert (await response.json(content_type=None))["error"]["code"] == status
                    stream = response.headers["Content-Type"] == "text/event-stream"
                    assert stream == method.startswith("stream")

    uvloop.run(story())


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("noise", b"nonsense\r\n\r\n"),
        ("cut head", b"POST /v1internal:loadCodeAssist HTTP/1.1\r\n"),
        ("negative", b"POST /v1internal:loadCodeAssist HTTP/1.1\r\ncontent-length: -1\r\n\r\n"),
        ("no number", b"POST /v1internal:loadCodeAssist HTTP/1.1\r\ncontent-length: many\r\n\r\n"),
        ("too large", b"POST /v1internal:loadCodeAssist HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n"),
        ("cut body", b"POST /v1internal:loadCodeAssist HTTP/1.1\r\ncontent-length: 9\r\n\r\n{}"),
        (
            "chunked",
            b"POST /v1internal:loadCodeAssist HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
        ("long head", b"GET /" + b"x" * 100_000),
    ],
)
def test_what_is_no_request_of_its_client_ends_its_connection_only(kind, sent, capsys):
    """Without a word and without an error of ours; the next one is answered."""

    async def story():
        async with provider() as client:
            async with asyncio.timeout(10):
                reader, writer = await client.connect()
                writer.write(sent)
                if "cut" not in kind:
                    assert await reader.read() == b""
                writer.close()
            async with client.post("loadCodeAssist", {}) as response:
                assert response.status == 200

    uvloop.run(story())
    assert "simulated_provider.failed" not in capsys.readouterr().err


def test_a_new_certificate_is_taken_while_it_serves():
    """mitm makes one at each of its starts."""

    async def story():
        with short_directory() as home:
            state = StateDirectory(home=home)
            state.make()
            make_certificates(state)
            [port] = free_ports(1)
            async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
                serving = group.create_task(
                    SimulatedProvider(port, state.simulator / "provider.pem", Logs("lsrunner")).serve()
                )
                for _ in range(2):
                    await Client(session, port, state).succeeds()
                    make_certificates(state)
                serving.cancel()

    uvloop.run(story())
