"""The newest records of a journal, kept in memory for sending. What is older is read from disk."""

from collections.abc import Iterable, Iterator, Sequence

# Beyond the window that may be under way.
_RECORDS_MAX = 2048
_BYTES_MAX = 8 * 1024 * 1024


class Tail:
    """Records in order; the oldest make room for new ones, a quarter of all at a time: one by one it costs more."""

    __slots__ = ("_bytes", "_records")

    def __init__(self) -> None:
        self._records: list[bytes] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, records: Sequence[bytes]) -> None:
        """Take newer ones."""
        self._records += trimmed(records)
        self._bytes += sum(map(len, records))
        while len(self._records) > _RECORDS_MAX or self._bytes > _BYTES_MAX:
            self.drop(len(self._records) // 4 or 1)

    def drop(self, count: int) -> None:
        """Forget the `count` oldest, or all if there are fewer."""
        if count > 0:
            self._bytes -= sum(map(len, self._records[:count]))
            del self._records[:count]

    def read(self, position: int, records_max: int, bytes_max: int) -> list[bytes]:
        """Return those from `position` on, at least one if there is one, but no more than the limits."""
        found: list[bytes] = []
        total = 0
        for record in self._records[position : position + records_max]:
            total += len(record)
            if found and total > bytes_max:
                break
            found.append(record)
        return found


def trimmed(written: Iterable[bytes]) -> Iterator[bytes]:
    """Copy what is to be kept: bytes as orjson returns them may hold sixteen times the memory that they need."""
    return map(bytes, map(memoryview, written))  # type: ignore[arg-type]  # mypy looks for the type of its items
