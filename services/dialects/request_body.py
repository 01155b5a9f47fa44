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


class RequestBodyReader:
    """Reads a few scalar members of a request body; the path's word counts more than the body's."""

    def __init__(
        self, call: Call, wanted: Iterable[Path] = (), conversation_of: Callable[[Members], str | None] | None = None
    ) -> None:
        self._call = call
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
        return RequestFacts(
            model=self._call.request_model or name_of(found.get(MODEL)),
            stream=self._call.is_streaming if self._call.is_streaming is not None else _flag(stream),
            conversation_id=self._conversation_of(found) if self._conversation_of else None,
        )


def model_and_stream(call: Call) -> RequestReader:
    """Return a reader for the many APIs whose body names both."""
    return RequestBodyReader(call, (MODEL, STREAM))


def path_alone(call: Call) -> RequestReader:
    """Return a reader for APIs whose path says it all; it reads nothing of the body."""
    return RequestBodyReader(call)


def _flag(value: Scalar) -> bool | None:
    return value if isinstance(value, bool) else None
