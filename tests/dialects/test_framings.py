"""Streams that are no event streams give the JSON texts of their messages, and say what is wrong with them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.framings import AWS_CONTENT_TYPE, AwsMessages, JsonLines, aws_messages, json_lines
from services.wire.errors import WireError
from services.wire.eventstream import EventStreamMessage
from tests.support.eventstream import STRING, event, message, string
from tests.support.splits import CUTS, cut_at


def payload_of(message: EventStreamMessage) -> bytes | None:
    return message.payload if message.text(":event-type") != "silent" else None


@pytest.mark.parametrize(
    ("content_type", "lines", "aws"),
    [
        ("application/x-ndjson", True, False),
        ("Application/Stream+JSON; charset=utf-8", True, False),
        (AWS_CONTENT_TYPE, False, True),
        (f"{AWS_CONTENT_TYPE};x=y", False, True),
        ("application/json", False, False),
    ],
)
def test_the_content_type_says_which_framing_it_is(content_type: str, lines: bool, aws: bool) -> None:
    for is_streaming in (True, False, None):
        assert (json_lines(content_type, is_streaming=is_streaming) is not None) is lines
    assert (aws_messages(content_type, payload_of) is not None) is aws


@pytest.mark.parametrize("content_type", ["", "application/octet-stream"])
def test_without_a_content_type_that_says_anything_the_request_and_the_first_byte_do(content_type: str) -> None:
    assert json_lines(content_type, is_streaming=True) is not None
    assert json_lines(content_type, is_streaming=None) is json_lines(content_type, is_streaming=False) is None
    assert aws_messages(content_type, payload_of) is not None


@given(st.lists(st.sampled_from(["event", "silent", "exception", "error"]), max_size=6), CUTS)
def test_messages_are_what_the_dialect_says_and_errors_are_errors(kinds: list[str], cuts: list[int]) -> None:
    body, expected = b"", []
    for number, kind in enumerate(kinds):
        if kind in ("event", "silent"):
            body += event(kind, b"%d" % number)
            expected += [number] if kind == "event" else []
        else:
            body += event(f"e{number}", b"not JSON", message_type=kind)
            expected.append({"error": {"code": f"e{number}"}})  # type: ignore[arg-type]
    framing = AwsMessages(payload_of)
    found = [text for piece in cut_at(body, cuts) for text in framing.feed(piece)]
    assert [json.loads(text) for text in found] == expected
    assert framing.end() is None


def test_a_message_without_any_kind_is_an_error() -> None:
    assert AwsMessages(payload_of).feed(message([], b"{}")) == [b'{"error":{"code":"error"}}']
    odd = message([(":message-type", STRING, string("odd"))], b"{}")
    assert AwsMessages(payload_of).feed(odd) == [b'{"error":{"code":"odd"}}']


def test_bad_bytes_behind_good_ones_are_told_at_the_end() -> None:
    framing = AwsMessages(payload_of)
    assert framing.feed(event("a", b"1") + b"\xff" * 20) == [b"1"]
    with pytest.raises(WireError):
        framing.end()


def test_json_under_the_label_of_aws_is_no_aws_stream() -> None:
    framing = AwsMessages(payload_of)
    assert not any(framing.begins_with(start) for start in (b"{", b"[", b" ", b"\r\n"))
    assert framing.begins_with(event("a", b"1"))


def test_lines_are_texts_and_the_last_one_may_be_open() -> None:
    framing = JsonLines()
    assert all(framing.begins_with(start) for start in (b"{", b" \n", b"anything"))
    assert not any(framing.begins_with(start) for start in (b"data: {}", b"event: a", b"\n: comment"))
    assert framing.feed(b'{"a":1}\r\n\n{"b"') == [b'{"a":1}']
    assert framing.end() == b'{"b"'
