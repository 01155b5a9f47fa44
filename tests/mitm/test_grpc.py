"""Programs that speak gRPC work on an intercepted host as they do without us (grpcio, on both sides)."""

import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from services.mitm.authority import make_leaf, make_leaf_key
from tests.support.eventually import eventually
from tests.support.mitm import Mitm
from tests.support.protobuf import message
from tests.support.raw_upstream import upstream_authority

grpc = pytest.importorskip("grpc", reason="grpcio is not installed (pip install grpcio)")
HOST = "grpc.upstream.test"
# A server that sends its connections away so often does it in the middle of a test.
CONNECTION_AGE_MS = 700
GENERATIVE = "/google.ai.generativelanguage.v1beta.GenerativeService"
ANSWERS = [
    message({1: [{1: {1: [{2: "many words " * 50}]}}], 3: {1: 9, 3: 9}, 5: "r"}),
    message({1: [{1: {1: [{2: "and more " * 50}]}, 2: 1}], 3: {1: 9, 2: 4, 3: 13}, 5: "r"}),
]
# What a request ends with -> how it is answered.
COMPRESSIONS = {
    b"n": grpc.Compression.NoCompression,
    b"g": grpc.Compression.Gzip,
    b"d": grpc.Compression.Deflate,
}


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Calls on bytes: no schema is needed to see whether they pass."""

    def __init__(self) -> None:
        self.over: list[str] = []

    def service(self, details: Any) -> Any:
        kinds = {
            "Reverse": grpc.unary_unary_rpc_method_handler,
            "Fail": grpc.unary_unary_rpc_method_handler,
            "Talk": grpc.stream_stream_rpc_method_handler,
            "Forever": grpc.unary_stream_rpc_method_handler,
            "StreamGenerateContent": grpc.unary_stream_rpc_method_handler,
            "EmbedContent": grpc.unary_unary_rpc_method_handler,
            "CountTokens": grpc.unary_unary_rpc_method_handler,
        }
        name = details.method.rpartition("/")[2]
        return kinds[name](getattr(self, f"_{name.lower()}"))

    def _streamgeneratecontent(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.set_compression(COMPRESSIONS[request[-1:]])
        yield from ANSWERS

    def _embedcontent(self, request: bytes, context: Any) -> bytes:
        return b""

    _counttokens = _embedcontent

    def _reverse(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-length", str(len(request))),))
        return request[::-1]

    def _fail(self, request: bytes, context: Any) -> None:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota ü")

    def _talk(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for each in messages:
            yield each + b"!"

    def _forever(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(lambda: self.over.append(request.decode()))
        while context.is_active():
            yield b"x"
            futures.wait([], timeout=0)


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[_Service, int]]:
    leaf = make_leaf(upstream_authority(), make_leaf_key(), HOST, upstream_authority().certificate.not_valid_before_utc)
    options = [("grpc.max_connection_age_ms", CONNECTION_AGE_MS), ("grpc.max_receive_message_length", -1)]
    handler = _Service()
    with futures.ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=options)
        server.add_generic_rpc_handlers((handler,))
        credentials = grpc.ssl_server_credentials([(leaf.key_pem(), leaf.certificate_pem())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield handler, port
        server.stop(0).wait(10)


@pytest.fixture
def channel(proxy: Mitm, service: tuple[_Service, int]) -> Iterator[Any]:
    proxy.upstream_map[HOST] = ("127.0.0.1", service[1])
    options = [
        ("grpc.ssl_target_name_override", HOST),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    credentials = grpc.ssl_channel_credentials(proxy.config.trust_bundle.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{proxy.port}", credentials, options=options) as opened:
        yield opened


def test_calls_of_every_kind_pass(proxy: Mitm, channel: Any) -> None:
    """Messages, large ones, both ways at once, statuses and metadata; each call is on record as unreadable."""
    before = len(proxy.outbox.records)
    reverse = channel.unary_unary("/a.B/Reverse")
    answer, call = reverse.with_call(b"hello", timeout=10)
    assert answer == b"olleh"
    assert [(each.key, each.value) for each in call.trailing_metadata()] == [("x-length", "5")]
    large = bytes(range(256)) * 20_000
    assert reverse(large, timeout=20) == large[::-1]
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/a.B/Fail")(b"", timeout=10)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota ü")
    messages = [b"%d" % number for number in range(300)]
    assert list(channel.stream_stream("/a.B/Talk")(iter(messages), timeout=20)) == [m + b"!" for m in messages]
    records = eventually(
        "a record of each", lambda: found if len(found := proxy.outbox.records[before:]) >= 4 else None
    )
    assert {(record["outcome"], record["reason"]) for record in records} == {
        ("unreadable", "gRPC messages of this call are not read")
    }


@pytest.mark.parametrize("ending", COMPRESSIONS, ids=["plain", "gzip", "deflate"])
def test_generated_content_is_counted_however_it_is_compressed(proxy: Mitm, channel: Any, ending: bytes) -> None:
    """By gRPC's own library, message by message."""
    before = len(proxy.outbox.records)
    asked = message({1: "models/gemini-x", 2: [{2: ending}]})
    answers = channel.unary_stream(f"{GENERATIVE}/StreamGenerateContent")(asked, timeout=10)
    assert list(answers) == ANSWERS
    [record] = eventually("its record", lambda: proxy.outbox.records[before:])
    assert (record["outcome"], record["request_model"], record["response_id"]) == ("ok", "gemini-x", "r")
    assert record["usage"] == {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    assert record["bytes"]["down"] < sum(map(len, ANSWERS)) or ending == b"n"


def test_calls_that_are_not_read_are_known_by_name(proxy: Mitm, channel: Any) -> None:
    """One that spends is unreadable and says why, one that is free is counted as an exchange."""
    before = len(proxy.outbox.records)
    channel.unary_unary(f"{GENERATIVE}/EmbedContent")(b"", timeout=10)
    channel.unary_unary(f"{GENERATIVE}/CountTokens")(b"", timeout=10)
    spent, counted = eventually("both", lambda: found if len(found := proxy.outbox.records[before:]) >= 2 else None)
    assert (spent["outcome"], spent["operation"]) == ("unreadable", "embeddings")
    assert spent["reason"] == "gRPC messages of this call are not read"
    assert (counted["schema"], counted["endpoint"]) == ("wiremeter.exchange/1", "CountTokens")


def test_what_the_client_gives_up_ends_at_the_server(channel: Any, service: tuple[_Service, int]) -> None:
    """Cancelled, and out of time."""
    cancelled = channel.unary_stream("/a.B/Forever")(b"cancelled")
    next(cancelled)
    cancelled.cancel()
    with pytest.raises(grpc.RpcError) as late:
        list(channel.unary_stream("/a.B/Forever")(b"late", timeout=0.3))
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually("both are over", lambda: {"cancelled", "late"} <= set(service[0].over))


def test_no_call_is_lost_when_the_server_sends_its_clients_away(channel: Any) -> None:
    """GOAWAY again and again, with calls under way and on their way."""
    reverse = channel.unary_unary("/a.B/Reverse")
    end = time.monotonic() + 4 * CONNECTION_AGE_MS / 1000
    with futures.ThreadPoolExecutor(8) as pool:
        while time.monotonic() < end:
            asked = [b"%d" % number for number in range(40)]
            answers = pool.map(lambda message: reverse(message, timeout=10), asked)
            assert [answer[::-1] for answer in answers] == asked
