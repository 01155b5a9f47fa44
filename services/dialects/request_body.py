"""What a record needs of a request: read in passing out of its JSON body, which may be megabytes long."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from services.dialects.counts import name_of
from services.dialects.dialect import Call, RequestFacts, RequestReader
from services.wire.errors import WireError
from services.wire.json_members import JsonMemberReader, Path, Scalar

Members: TypeAlias = Mapping[Path, Scalar]

MODEL: Path = ("model",)
STREAM: Path = ("stream",)
INCLUDE_USAGE: Path = ("stream_options", "include_usage")


class RequestBodyReader:
    """
    Reads a few scalar members of a request body; the path's word counts more than the body's.

    Args:
        call: What the path says.
        wanted: The members to read.
        conversation_of: Makes the client's id of the conversation of them.
        body_names_model: The body's model counts more than the path's, which is the name of a deployment (Azure).
    """

    def __init__(
        self,
        call: Call,
        wanted: Iterable[Path] = (),
        conversation_of: Callable[[Members], str | None] | None = None,
        *,
        body_names_model: bool = False,
    ) -> None:
        self._call = call
        self._body_names_model = body_names_model
        self._members = JsonMemberReader(wanted)
        self._conversation_of = conversation_of

    def feed(self, data: bytes) -> None:
        try:
            self._members.feed(data)
        except WireError:
            pass  # not JSON: the provider will say so to the client, and what was found before stands

    def facts(self) -> RequestFacts:
        found = self._members.found
        stream = found.get(STREAM)
        in_path, in_body = self._call.request_model, name_of(found.get(MODEL))
        return RequestFacts(
            model=(in_body or in_path) if self._body_names_model else (in_path or in_body),
            stream=self._call.is_streaming if self._call.is_streaming is not None else _flag(stream),
            include_usage=_flag(found.get(INCLUDE_USAGE)),
            conversation_id=self._conversation_of(found) if self._conversation_of else None,
        )


def model_and_stream(call: Call) -> RequestReader:
    """Return a reader for the many APIs whose body names both."""
    return RequestBodyReader(call, (MODEL, STREAM))


def body_model_and_stream(call: Call) -> RequestReader:
    """As `model_and_stream`, where the path may name a deployment, which is no model."""
    return RequestBodyReader(call, (MODEL, STREAM), body_names_model=True)


def path_alone(call: Call) -> RequestReader:
    """Return a reader for APIs whose path says it all; it reads nothing of the body."""
    return RequestBodyReader(call)


def _flag(value: Scalar) -> bool | None:
    return value if isinstance(value, bool) else None
