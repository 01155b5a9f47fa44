"""A gRPC call is what its status says it is, with the counts of its messages."""

import pytest

from services.dialects.dialect import Call, CallKind, RequestFacts, ResponseFacts
from services.dialects.google_generate_content import GenerateContentTally
from services.dialects.google_grpc import GEMINI_ANSWER, GEMINI_REQUEST
from services.dialects.grpc_answer import GrpcAnswerReader, GrpcRequestReader
from services.events.usage import Outcome, ResponseUsage
from tests.support.protobuf import grpc_message, message
from tests.support.reading import read
from tests.support.splits import every_split

CALL = Call(kind=CallKind.MODEL_CALL, dialect="google-gemini-grpc", operation="generate_content", is_streaming=True)
COUNTED = grpc_message(message({3: {1: 3, 2: 1, 3: 4}}))
COUNTS = {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
BLOCKED = grpc_message(message({2: {1: 1}}))


def reader_of(content_type: str = "application/grpc", **headers: str) -> GrpcAnswerReader:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    response = ResponseFacts(status=200, content_type=content_type, headers=fields)
    return GrpcAnswerReader(GenerateContentTally(CALL, RequestFacts()), GEMINI_ANSWER, response)


def record_of(*body: bytes, status: str | None = "0", complete: bool = True, **headers: str) -> ResponseUsage:
    trailer = {} if status is None else {"grpc-status": status}
    (record,) = read(reader_of(**headers), body, complete=complete, trailer=trailer)
    return record


@pytest.mark.parametrize(
    ("body", "status", "complete", "outcome"),
    [
        (COUNTED, "0", True, Outcome.OK),
        (b"", "0", True, Outcome.NO_USAGE),
        (COUNTED, None, True, Outcome.TRUNCATED),
        (COUNTED, None, False, Outcome.TRUNCATED),
        (COUNTED + COUNTED[:7], "0", True, Outcome.TRUNCATED),
        (COUNTED, "14", True, Outcome.ERROR),
        (COUNTED + b"\x80\0\0\0\0", "14", True, Outcome.ERROR),
        (COUNTED, "none", True, Outcome.ERROR),
        (COUNTED + BLOCKED, "0", True, Outcome.BLOCKED),
        (COUNTED + b"\x80\0\0\0\0", "0", True, Outcome.UNREADABLE),
        (COUNTED + grpc_message(b"\x0e"), "0", True, Outcome.UNREADABLE),
    ],
)
def test_a_call_ends_as_its_status_says(body: bytes, status: str | None, complete: bool, outcome: Outcome) -> None:
    """However it was cut; and the counts seen stay."""
    for pieces in every_split(body) if body else [[]]:
        record = record_of(*pieces, status=status, complete=complete)
        assert (record.outcome, record.counts) == (outcome, COUNTS if body else {})


def test_an_error_has_the_name_of_its_status() -> None:
    assert record_of(COUNTED, status="8").error_type == "RESOURCE_EXHAUSTED"
    assert record_of(status="").error_type == "UNKNOWN"


def test_a_head_that_nothing_follows_has_the_status() -> None:
    (record,) = reader_of(grpc_status="7").end(complete=True)
    assert (record.outcome, record.error_type) == (Outcome.ERROR, "PERMISSION_DENIED")


def test_a_trailer_without_a_status_says_nothing() -> None:
    reader = reader_of()
    reader.read_trailer({"grpc-message": "x"})
    (record,) = reader.end(complete=True)
    assert record.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("content_type", ["application/grpc", "Application/gRPC+proto; charset=x"])
def test_messages_in_protobuf_are_read(content_type: str) -> None:
    assert record_of(COUNTED, content_type=content_type).outcome is Outcome.OK


@pytest.mark.parametrize("content_type", ["application/grpc+json", "application/grpc-web+proto", "text/html", ""])
def test_what_is_no_grpc_of_protobuf_says_what_it_is(content_type: str) -> None:
    record = record_of(COUNTED, content_type=content_type)
    assert record.outcome is Outcome.UNREADABLE
    assert record.reason == f"answer of {content_type or 'no content type'} is no gRPC of protobuf messages"
    assert record.counts == {}


def test_a_coding_that_is_not_known_is_the_reason() -> None:
    record = record_of(COUNTED + grpc_message(b"", "gzip"), grpc_encoding="snappy")
    assert (record.outcome, record.counts) == (Outcome.UNREADABLE, COUNTS)
    assert record.reason == "content coding 'snappy' is not known"


# ---- what a request says


def model_in(body: bytes) -> str | None:
    found = set()
    for pieces in every_split(body):
        reader = GrpcRequestReader(CALL, GEMINI_REQUEST, lambda request: str(request.get("model")))
        for piece in pieces:
            reader.feed(piece)
        facts = reader.facts()
        assert facts.stream is True
        found.add(facts.model)
    (model,) = found
    return model


def test_the_model_is_in_the_first_message() -> None:
    assert model_in(grpc_message(message({1: "m", 2: ["x", "y"]})) + grpc_message(message({1: "n"}))) == "m"


@pytest.mark.parametrize(
    "body", [grpc_message(message({1: "m"}), "gzip"), grpc_message(b"\x0e"), grpc_message(b"x" * 9)[:7], b"\xff" * 9]
)
def test_a_request_that_cannot_be_read_says_nothing(body: bytes) -> None:
    assert model_in(body) is None
