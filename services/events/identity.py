"""
ULIDs (github.com/ulid/spec): 48 bits of milliseconds and 80 random bits in 26 characters of Crockford's base 32.

They sort by time; within one millisecond the random part counts up, so that one process's ids sort as they were made.
"""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Two characters at a time: half the steps for the 26 of an id.
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_RANDOM_BITS = 80
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1


class UlidSource:
    """Makes the ids of one process from the time and the randomness that it is given."""

    __slots__ = ("_last_ms", "_random")

    def __init__(self, randomness: bytes) -> None:
        """Begin at `randomness`, ten bytes that no other process has."""
        assert len(randomness) == _RANDOM_BITS // 8
        self._random = int.from_bytes(randomness)
        self._last_ms = 0

    def make(self, now_unix_ms: int) -> str:
        """Return the next id, larger than every one before it."""
        self._last_ms = max(self._last_ms, now_unix_ms)
        # Counting from one random start for the life of the process keeps ids unique without asking for randomness
        # again; they need not be unguessable.
        self._random = (self._random + 1) & _RANDOM_MASK
        value = self._last_ms << _RANDOM_BITS | self._random
        return "".join(_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10))
