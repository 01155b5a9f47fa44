"""
ULIDs (github.com/ulid/spec): 48 bits of milliseconds and 80 random bits in 26 characters of Crockford's base 32.

They sort by time; within one process, the ids of one millisecond sort as they were made.
"""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Two characters at a time: half the steps.
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
RANDOM_BYTES = 10
_COUNTER_BITS = 20
_PAIR_END = 1 << 10


class UlidSource:
    """
    Makes the ids of one process from the time and the randomness that it is given.

    The lowest 20 random bits count: an id then costs a look-up, and asks for no randomness of its own. The ids need to
    be unique, not unguessable.
    """

    __slots__ = ("_high", "_last_ms", "_next", "_prefix", "_random", "_time", "_upper")

    def __init__(self, randomness: bytes) -> None:
        """Begin at `randomness`, ten bytes that no other process has."""
        assert len(randomness) == RANDOM_BYTES
        value = int.from_bytes(randomness) >> _COUNTER_BITS
        self._random = "".join(_PAIRS[value >> shift & 1023] for shift in range(50, -1, -10))
        self._last_ms = -1
        self._high = -1  # the upper 38 bits of the time: they stay the same for a second
        self._time = ""  # what they are written as
        self._upper = 0  # the upper half of the counter
        self._next = _PAIR_END  # its lower half, for the next id
        self._prefix = ""  # everything before that

    def make(self, now_unix_ms: int) -> str:
        """Return the next id, larger than every one before it."""
        number = self._next
        if now_unix_ms > self._last_ms or number == _PAIR_END:
            self._begin(now_unix_ms)
            number = 0
        self._next = number + 1
        return self._prefix + _PAIRS[number]

    def _begin(self, now_unix_ms: int) -> None:
        """Count on from a new prefix: that of a later time, or the next one of the same."""
        ms, upper = self._last_ms, self._upper + 1
        if now_unix_ms > ms:
            ms, upper = now_unix_ms, 0
        elif upper == _PAIR_END:
            # A million ids in a millisecond, or a clock that stands still: borrow the next one.
            ms, upper = ms + 1, 0
        self._last_ms, self._upper = ms, upper
        if ms >> 10 != self._high:
            self._high = high = ms >> 10
            self._time = "".join(_PAIRS[high >> shift & 1023] for shift in (30, 20, 10, 0))
        self._prefix = self._time + _PAIRS[ms & 1023] + self._random + _PAIRS[upper]
