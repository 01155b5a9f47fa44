"""A response read the way mitm reads it: recognised, its request asked for facts, its body fed in pieces."""

from collections.abc import Iterable, Mapping

from services.dialects.recognise import Call, RequestFacts, ResponseReader, request_reader, response_reader
from services.events.usage import ResponseUsage
from services.wire.content_encoding import content_decoder
from tests.support.fixtures import record_of


def facts_of(call: Call, request_body: Iterable[bytes]) -> RequestFacts:
    """Read a request body."""
    reader = request_reader(call)
    if reader is None:
        return RequestFacts()
    for piece in request_body:
        reader.feed(piece)
    return reader.facts()


def reader_of(
    call: Call,
    status: int,
    content_type: str,
    facts: RequestFacts | None = None,
    headers: Mapping[str, str] | None = None,
) -> ResponseReader:
    """Return the reader of a response that has one."""
    reader = response_reader(
        call, status=status, content_type=content_type, facts=facts or RequestFacts(), headers=headers or {}
    )
    assert reader is not None
    return reader


def read(
    reader: ResponseReader,
    pieces: Iterable[bytes],
    *,
    complete: bool = True,
    content_encoding: str = "",
    trailer: Mapping[str, str] | None = None,
) -> tuple[ResponseUsage, ...]:
    """
    Feed a response body, and check on the way that `feed` tells when the counts have changed.

    A body that is not complete has nothing behind it.
    """
    decoder = content_decoder(content_encoding)
    before = reader.progress().counts
    for piece in pieces:
        changed = reader.feed(decoder.feed(piece))
        progress = reader.progress()
        assert changed or before == progress.counts
        assert reader.counts() == progress.counts
        assert reader.response_model() == progress.response_model
        before = progress.counts
    if complete and trailer:
        reader.read_trailer(trailer)
    return reader.end(complete=complete)


def flat(usage: ResponseUsage, provider: str) -> dict[str, object]:
    """Return a whole record as captures write it."""
    more = {
        "outcome": str(usage.outcome),
        "conversation_id": usage.conversation_id,
        "anomalies": list(usage.anomalies) or None,
        "reason": usage.reason,
    }
    return record_of(usage, provider) | {name: value for name, value in more.items() if value is not None}
