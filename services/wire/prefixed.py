"""
Messages that begin with their own length: the bytes of a stream in any split go in, whole messages come out.

What such a message looks like is its protocol's. Here is what two of them share: keeping the unfinished one, and
handing out what was whole before a mistake.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from services.wire.errors import WireError

Message = TypeVar("Message")


class PrefixedReader(ABC, Generic[Message]):
    """
    Takes a stream of such messages apart.

    Args:
        head_bytes: What has to be there before a message's length is known.
    """

    def __init__(self, head_bytes: int) -> None:
        self._head_bytes = head_bytes
        # The unfinished message, in the pieces in which it came: joining them once keeps a long one linear.
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._wanted_bytes = head_bytes
        self._error: WireError | None = None

    @abstractmethod
    def _length_at(self, held: bytes, position: int) -> int:
        """Return the length of the message whose head is at `position`, its head included; raise if it has none."""

    @abstractmethod
    def _message_at(self, held: bytes, position: int, end: int) -> Message:
        """Return the whole message `held[position:end]`; raise if it is none."""

    @property
    def is_between_messages(self) -> bool:
        """Nothing of an unfinished message has come."""
        return self._held_bytes == 0

    def feed(self, data: bytes) -> list[Message]:
        """
        Read the next piece of the stream.

        Returns:
            The messages that it finished, in order; often none.

        Raises:
            WireError: What came is no message of the protocol; the reader is of no use afterwards. What was whole
                before it is returned first: then the next call raises.
        """
        self.end()
        self._pieces.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._wanted_bytes:
            return []
        found: list[Message] = []
        held = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        try:
            position = self._take_messages(held, found)
        except WireError as error:
            self._error = error
            self._pieces.clear()
            if not found:
                raise
            return found
        rest = held[position:]
        self._pieces = [rest] if rest else []
        self._held_bytes = len(rest)
        return found

    def end(self) -> None:
        """
        The stream is over.

        Raises:
            WireError: What came behind the last message is none.
        """
        if self._error is not None:
            raise self._error

    def _take_messages(self, held: bytes, found: list[Message]) -> int:
        """Add the whole messages in `held` to `found`; return where the unfinished one begins."""
        position = 0
        while len(held) - position >= self._head_bytes:
            length = self._length_at(held, position)
            end = position + length
            if end > len(held):
                self._wanted_bytes = length
                return position
            found.append(self._message_at(held, position, end))
            position = end
        self._wanted_bytes = self._head_bytes
        return position
