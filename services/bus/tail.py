"""The newest records of a journal, kept in memory for sending. What is older is read from disk."""

from collections import deque
from collections.abc import Sequence
from itertools import islice

# Beyond the window that may be under way.
_RECORDS_MAX = 2048
_BYTES_MAX = 8 * 1024 * 1024


class Tail:
    """Records in order; the oldest make room for new ones."""

    __slots__ = ("_bytes", "_records")

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, records: Sequence[bytes]) -> None:
        """Take newer ones."""
        for record in records:
            self._records.append(exactly(record))
            self._bytes += len(record)
        while len(self._records) > _RECORDS_MAX or self._bytes > _BYTES_MAX:
            self._drop_oldest()

    def drop(self, count: int) -> None:
        """Forget the `count` oldest, or all if there are fewer."""
        for _ in range(min(count, len(self._records))):
            self._drop_oldest()

    def read(self, position: int, records_max: int, bytes_max: int) -> list[bytes]:
        """Return those from `position` on, at least one if there is one, but no more than the limits."""
        found: list[bytes] = []
        total = 0
        for record in islice(self._records, position, position + records_max):
            total += len(record)
            if found and total > bytes_max:
                break
            found.append(record)
        return found

    def _drop_oldest(self) -> None:
        self._bytes -= len(self._records.popleft())


def exactly(written: bytes) -> bytes:
    """Copy what is to be kept: bytes as orjson returns them may hold sixteen times the memory that they need."""
    return bytes(memoryview(written))
