"""Records that wait in memory until the disk has room for them."""

from collections import deque
from collections.abc import Sequence

from services.bus.segment import ENTRY_BYTES_MAX
from services.bus.tail import trimmed


class WaitingRoom:
    """
    The records of exchanges that are over, oldest first, each with its exchange's id.

    Args:
        bytes_max: What all of them may take; there is no room for more.

    Attributes:
        exchanges: Those that wait; only to be looked at.
    """

    __slots__ = ("_bytes", "_bytes_max", "exchanges")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self.exchanges: deque[tuple[str | None, tuple[bytes, ...]]] = deque()

    @property
    def records(self) -> int:
        """How many records wait."""
        return sum(len(records) for _, records in self.exchanges)

    def take(self, exchange_id: str | None, records: Sequence[bytes]) -> bool:
        """Let the records of an exchange wait; False if there is no room, or they would never be an entry."""
        size = sum(map(len, records))
        if size > ENTRY_BYTES_MAX // 2 or self._bytes + size > self._bytes_max:
            return False
        self.exchanges.append((exchange_id, tuple(trimmed(records))))
        self._bytes += size
        return True

    def leave(self) -> None:
        """The first need not wait any longer."""
        self._bytes -= sum(map(len, self.exchanges.popleft()[1]))
