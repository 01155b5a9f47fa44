"""The Connect client, against real HTTP servers on loopback."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from services.lsrunner.connect_rpc import ConnectClient, Origin, RpcBroken, RpcRefused
from services.lsrunner.envelopes import encode_envelope

END = b"\x02\0\0\0\x02{}"
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[ConnectClient]:
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = ConnectClient(Origin(scheme="http", address="127.0.0.1", port=port), "a.Service", {"x-token": "t"})
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


def call(handler: Handler, timeout_s: float | None = 5.0) -> object:
    async def told() -> object:
        async with serving(handler) as client:
            return await client.call("Do", {"a": 1}, timeout_s)

    return asyncio.run(told())


def stream(*pieces: bytes, status: int = 200) -> list[object]:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/connect+json"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    async def told() -> list[object]:
        async with serving(handler) as client:
            return [message async for message in client.stream("Watch", {})]

    return asyncio.run(told())


def test_a_call_is_json_with_the_headers_of_connect() -> None:
    seen = {}

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.update({"path": request.path, "body": json.loads(await request.read()), **request.headers})
        return web.json_response({"b": "2"})

    assert call(handler) == {"b": "2"}
    assert (seen["path"], seen["body"]) == ("/a.Service/Do", {"a": 1})
    assert seen["Content-Type"] == "application/json"
    assert (seen["Connect-Protocol-Version"], seen["x-token"]) == ("1", "t")


@pytest.mark.parametrize(
    ("status", "body", "code", "is_connect"),
    [
        (501, b'{"code":"unimplemented","message":"no such method"}', "unimplemented", True),
        (401, b'{"code":"unauthenticated","message":"missing CSRF token"}', "unauthenticated", True),
        (404, b"404 page not found\n", "unimplemented", False),
        (400, b"Client sent an HTTP request to an HTTPS server.\n", "internal", False),
        (503, b"", "unavailable", False),
        (500, b'{"message":"no code"}', "unknown", False),
    ],
)
def test_a_refusal_has_connects_word(status: int, body: bytes, code: str, is_connect: bool) -> None:
    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    with pytest.raises(RpcRefused) as refused:
        call(handler)
    assert (refused.value.code, refused.value.is_connect) == (code, is_connect)


def test_an_answer_that_is_no_object_is_broken() -> None:
    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"<!doctype html>")

    with pytest.raises(RpcBroken, match="nonsense"):
        call(handler)


def test_an_answer_that_does_not_come_is_broken() -> None:
    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(RpcBroken, match="took too long"):
        call(handler, timeout_s=0.1)


def test_nobody_there_is_broken() -> None:
    async def told() -> None:
        client = ConnectClient(Origin(scheme="https", address="127.0.0.1", port=1), "a.Service", {})
        try:
            await client.call("Do", {})
        finally:
            await client.close()

    with pytest.raises(RpcBroken, match="broke off"):
        asyncio.run(told())


def test_only_loopback_is_connected_to() -> None:
    """The certificate is not verified, so no other machine may ever be meant."""
    with pytest.raises(ValueError, match="no loopback address"):
        Origin(scheme="https", address="192.0.2.1", port=443)
    assert str(Origin(scheme="https", address="::1", port=8)) == "https://[::1]:8"


def test_a_stream_gives_its_messages() -> None:
    one, two = encode_envelope({"n": 1}), encode_envelope({"n": 2})
    assert stream(one + two[:3], two[3:] + END) == [{"n": 1}, {"n": 2}]


def test_a_stream_that_fails_in_its_trailer_is_refused() -> None:
    trailer = b'{"error":{"code":"internal","message":"stream broken"}}'
    with pytest.raises(RpcRefused, match="internal: stream broken"):
        stream(encode_envelope({"n": 1}), b"\x02\0\0\0" + bytes([len(trailer)]) + trailer)


@pytest.mark.parametrize("end", [b"", b"\0\0", b"\x01\0\0\0\0", b"nonsense"])
def test_a_stream_without_a_proper_end_is_broken(end: bytes) -> None:
    with pytest.raises(RpcBroken, match="nonsense"):
        stream(encode_envelope({"n": 1}), end)


def test_a_stream_can_be_refused_at_once() -> None:
    with pytest.raises(RpcRefused) as refused:
        stream(b'{"code":"unimplemented","message":"gone"}', status=501)
    assert refused.value.code == "unimplemented"


def test_a_stream_that_is_left_ends_at_the_server() -> None:
    async def told() -> None:
        left = asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(encode_envelope({"n": 1}))
                    await asyncio.sleep(0.01)
            finally:
                left.set()

        async with serving(handler) as client:
            async with contextlib.aclosing(client.stream("Watch", {})) as messages:
                assert await anext(messages) == {"n": 1}
            async with asyncio.timeout(5):
                await left.wait()

    asyncio.run(told())
