"""
ULIDs (github.com/ulid/spec): 48 bits of milliseconds and 80 random bits in 26 characters of Crockford's base 32.

They sort by time; within one process, the ids of one millisecond sort as they were made.
"""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Two characters at a time: half the steps.
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
RANDOM_BYTES = 10
_COUNTER_BITS = 20
_COUNTER_END = 1 << _COUNTER_BITS


class UlidSource:
    """
    Makes the ids of one process from the time and the randomness that it is given.

    The lowest 20 random bits count: an id then costs two look-ups, and asks for no randomness of its own. The ids need
    to be unique, not unguessable.
    """

    __slots__ = ("_counter", "_high", "_last_ms", "_prefix", "_random", "_time")

    def __init__(self, randomness: bytes) -> None:
        """Begin at `randomness`, ten bytes that no other process has."""
        assert len(randomness) == RANDOM_BYTES
        value = int.from_bytes(randomness) >> _COUNTER_BITS
        self._random = "".join(_PAIRS[value >> shift & 1023] for shift in range(50, -1, -10))
        self._counter = _COUNTER_END
        self._last_ms = -1
        self._high = -1  # the upper 28 bits of the time: they stay the same for 17 minutes
        self._time = ""  # what they are written as
        self._prefix = ""

    def make(self, now_unix_ms: int) -> str:
        """Return the next id, larger than every one before it."""
        counter = self._counter
        if now_unix_ms > self._last_ms:
            self._begin_at(now_unix_ms)
            counter = 0
        elif counter == _COUNTER_END:
            # A million ids in a millisecond, or a clock that stands still: borrow the next one.
            self._begin_at(self._last_ms + 1)
            counter = 0
        self._counter = counter + 1
        return self._prefix + _PAIRS[counter >> 10] + _PAIRS[counter & 1023]

    def _begin_at(self, ms: int) -> None:
        self._last_ms = ms
        if ms >> 20 != self._high:
            self._high = high = ms >> 20
            self._time = _PAIRS[high >> 20 & 1023] + _PAIRS[high >> 10 & 1023] + _PAIRS[high & 1023]
        self._prefix = self._time + _PAIRS[ms >> 10 & 1023] + _PAIRS[ms & 1023] + self._random
