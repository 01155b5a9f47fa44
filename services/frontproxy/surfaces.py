"""
What a surface is: one HTTP API of other people's design, on the language server.

A surface reads a request body into `Asked`, and makes the `Answer` that writes the turn in that API's own words. Both
are cores; `server` moves the bytes. A new surface is one module with a class of the shape `Surface` and one line in
`app.py`. Nothing of a surface may guess a count: what the wire did not say is absent or null, never zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.events.turn import Message, StopReason, TurnDelta
from services.frontproxy.bodies import Members
from services.frontproxy.joining import TurnUsage
from services.frontproxy.refusal import Refused


class Answer(Protocol):
    """Writes the answer of one turn, streaming or whole; for a stream the methods are called in this order."""

    def begin(self) -> bytes:
        """Write what comes before the first piece."""

    def piece(self, delta: TurnDelta) -> bytes:
        """Write one piece of the answer; may be empty."""

    def end(self, stop_reason: StopReason) -> bytes:
        """Write that the answer is complete."""

    def usage(self, usage: TurnUsage | None) -> bytes:
        """Write the usage, where it was asked for (else it is None), and the end of the stream."""

    def broken(self, refused: Refused) -> bytes:
        """Write, in the middle of a stream, that the rest will not come."""

    def whole(self, deltas: Sequence[TurnDelta], stop_reason: StopReason, usage: TurnUsage) -> bytes:
        """Write the answer in one piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    What a request asks for.

    Attributes:
        model: The model's id, as the client wrote it.
        messages: The conversation, the prompt last.
        streams: The answer is to be sent piece by piece.
        wants_usage: The answer ends with usage, and therefore waits for it.
        ignored: Parameters that have no effect here and do no harm; named in a response header.
    """

    model: str
    messages: tuple[Message, ...]
    streams: bool
    wants_usage: bool
    ignored: tuple[str, ...]


class Surface(Protocol):
    """One API: where it is, how its requests are read, how its answers and errors are written."""

    path: str

    def read(self, body: Members) -> Asked:
        """
        Read a request.

        Raises:
            Refused: It is not right, or asks for what a language server cannot do.
        """

    def answer(self, asked: Asked, turn_id: str, created_unix_s: int) -> Answer:
        """Make the writer of one answer."""

    def error(self, refused: Refused) -> bytes:
        """Write a refusal in the API's own shape."""
