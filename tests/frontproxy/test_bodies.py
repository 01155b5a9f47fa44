"""Request bodies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.frontproxy.bodies import Members, read_body
from services.frontproxy.refusal import Refused


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request body is empty"),
        (b'{"model": }', "line 1 column 11"),
        (b"\xff\xfe", "the request body is not JSON"),
        (b"[" * 5000, "the request body is not JSON"),
        (b'"\\ud800"', "the request body is not JSON"),
        (b"{} {}", "the request body is not JSON"),
        (b"NaN", "the request body is not JSON"),
        (b"[]", "is an array; a JSON object is expected"),
        (b"null", "is null; a JSON object is expected"),
        (b"1.5", "is a number; a JSON object"),
        (b"1e400", "infinity"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_reason(body: bytes, message: str):
    """The position of the mistake is named, never the text around it."""
    with pytest.raises(Refused) as caught:
        read_body(body)
    assert caught.value.status == 400
    assert message in caught.value.message


@given(st.binary(max_size=200))
def test_noise_is_an_object_or_refused(noise: bytes):
    """Nothing else comes of any bytes."""
    try:
        assert isinstance(read_body(noise), Members)
    except Refused as refused:
        assert refused.status == 400


def test_members_come_out_with_their_types():
    """Absent and null are the same."""
    body = read_body(b'{"a": "x", "b": true, "c": null, "d": {"e": "y"}, "f": [{"g": "z"}]}')
    assert body.text("a") == "x"
    assert body.flag("b") is True
    assert body.text("c") is None
    assert "c" not in body
    assert body.flag("missing") is False
    assert body.members("d").text("e") == "y"
    assert body.members("missing").values == {}
    assert [each.text("g") for each in body.each("f")] == ["z"]
    assert list(body.each("missing")) == []


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        ("text", b'{"a": 1}', "a is an integer; a string is expected"),
        ("flag", b'{"a": 1}', "a is an integer; a boolean is expected"),
        ("flag", b'{"a": "true"}', "a is a string; a boolean is expected"),
        ("members", b'{"a": [1]}', "a is an array; an object is expected"),
        ("each", b'{"a": {}}', "a is an object; an array is expected"),
        ("each", b'{"a": [1.5]}', "a[0] is a number; an object is expected"),
    ],
)
def test_a_wrong_type_names_the_member_and_both_types(method: str, body: bytes, message: str):
    """The client can find its mistake."""
    with pytest.raises(Refused) as caught:
        list(getattr(read_body(body), method)("a") or ())
    assert caught.value.message == message
    assert caught.value.param == message.split(" ")[0]


def test_a_mistake_deep_inside_is_named_by_its_path():
    """`messages[1].content[0].type`, as OpenAI does."""
    body = read_body(b'{"messages": [{}, {"content": [{"type": 1}]}]}')
    part = next(list(body.each("messages"))[1].each("content"))
    with pytest.raises(Refused) as caught:
        part.text("type")
    assert caught.value.param == "messages[1].content[0].type"
