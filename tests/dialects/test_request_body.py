"""Of a request only a few members are read, and the path's word counts more than the body's."""

import pytest

from services.dialects.dialect import Call, CallKind, RequestFacts
from services.dialects.request_body import body_model_and_stream, model_and_stream, path_alone

CALL = Call(kind=CallKind.MODEL_CALL)


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (b'{"messages": [{"model": "no"}], "stream": true, "model": "m"}', RequestFacts(model="m", stream=True)),
        (b'{"model": "m", "stream": "yes"}', RequestFacts(model="m")),
        (b'{"model": ["m"]}', RequestFacts()),
        (b'{"model": "m", cut', RequestFacts(model="m")),
        (b"model=m&stream=1", RequestFacts()),
        (b"", RequestFacts()),
    ],
)
def test_a_body_says_model_and_stream_if_it_does(body: bytes, facts: RequestFacts) -> None:
    reader = model_and_stream(CALL)
    for i in range(len(body)):
        reader.feed(body[i : i + 1])
    assert reader.facts() == facts


def test_the_path_is_believed_first() -> None:
    reader = model_and_stream(Call(kind=CallKind.MODEL_CALL, request_model="path", is_streaming=False))
    reader.feed(b'{"model": "body", "stream": true}')
    assert reader.facts() == RequestFacts(model="path", stream=False)


def test_a_deployment_in_the_path_gives_way_to_the_body() -> None:
    for body, model in ((b'{"model": "body"}', "body"), (b"{}", "path"), (b'{"model": ""}', "path")):
        reader = body_model_and_stream(Call(kind=CallKind.MODEL_CALL, request_model="path"))
        reader.feed(body)
        assert reader.facts() == RequestFacts(model=model)


def test_a_path_that_says_it_all_needs_no_body() -> None:
    reader = path_alone(Call(kind=CallKind.MODEL_CALL, request_model="path", is_streaming=True))
    reader.feed(b'{"model": "body"}')
    assert reader.facts() == RequestFacts(model="path", stream=True)
