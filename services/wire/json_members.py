"""
A few scalar members of one JSON object, read while it passes by: pieces of any size in, values by path out.

For request bodies of megabytes of which only `model` or `requestId` is wanted: nothing is kept but the token that is
being read, and nothing is read any more once every wanted member has been seen.

Source  RFC 8259.
Limits  A wanted value longer than `value_bytes_max` is seen and left out; so is one that is no scalar or no valid JSON.
Rules   A path is the keys from the outermost object inwards; arrays are never entered. Of duplicate keys the first one
        counts (RFC 8259 leaves that open, `json.loads` takes the last), because the reader stops early.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeAlias

import orjson

from services.wire.json_stream import BYTE_ORDER_MARK, CLOSING, COMMA, OPENING, QUOTE, JsonMalformed, ValueScanner

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str, ...]

# Model names, ids and flags are short; what is longer is not one.
VALUE_BYTES_MAX = 4096

# One character of a key can be written as two escapes of six bytes; longer keys are none that anybody wants.
BYTES_PER_KEY_CHARACTER_MAX = 12

OBJECT_OPENING, OBJECT_CLOSING, COLON = ord("{"), ord("}"), ord(":")

_SIGNIFICANT = re.compile(rb"[^ \t\r\n]")
_BEHIND_LITERAL = re.compile(rb"[ \t\r\n,\]}]")
# Nearly every key, and every value that is wanted, is a word: it needs no step for each of its parts.
_WORD = rb'"([ !#-\[\]-~]{0,64}+)"'  # printable ASCII without quote and backslash
_WORD_AS_KEY = re.compile(rb"[ \t\r\n]*+" + _WORD + rb"[ \t\r\n]*+:")
_WORD_AS_VALUE = re.compile(_WORD)


class JsonMemberReader:
    """
    Reads those scalar members of one JSON object that `wanted` names.

    Attributes:
        found: The values read so far, by path.
        is_done: Nothing more will be found; feeding on is allowed and costs nothing.
    """

    def __init__(self, wanted: Iterable[Path], *, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.found: dict[Path, Scalar] = {}
        missing, branches, self._key_bytes_max = _plan(frozenset(wanted))
        self._missing = set(missing)
        self.is_done = not missing
        self._branches = set(branches)  # the objects to enter on the way to a wanted member, each at most once
        self._value_bytes_max = value_bytes_max
        self._scanner = ValueScanner()
        self._outer: Path = ()  # the object that is being read
        self._path: Path | None = None  # its member that is being read; None for one that nobody wants
        self._token: list[bytes] = []
        self._token_bytes = 0
        self._mark_bytes = 0
        self._step: Callable[[bytes, int], int] = self._before_object

    def feed(self, data: bytes) -> None:
        """
        Read the next piece of the body.

        Raises:
            JsonMalformed: Not an object, or text that no object has at its place. What was found stays found, and the
                reader is done.
        """
        position = 0
        try:
            while not self.is_done and 0 <= position < len(data):
                position = self._step(data, position)
        except JsonMalformed:
            self.is_done = True
            raise

    # Each step reads from `position` and returns where the next one goes on, or -1 when `data` is used up.

    def _before_object(self, data: bytes, position: int) -> int:
        if self._mark_bytes < len(BYTE_ORDER_MARK) and data[position] == BYTE_ORDER_MARK[self._mark_bytes]:
            self._mark_bytes += 1
            return position + 1
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        if data[found.start()] != OBJECT_OPENING:
            raise JsonMalformed(f"body begins with {found[0]!r}, not with an object")
        self._step = self._before_key
        return found.end()

    def _before_key(self, data: bytes, position: int) -> int:
        word = _WORD_AS_KEY.match(data, position)
        if word is not None:
            self._begin_member(word[1].decode("ascii"))
            self._step = self._before_value
            return self._before_value(data, word.end())
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        byte = data[found.start()]
        if byte == OBJECT_CLOSING:
            return self._leave_object(found.end())
        if byte != QUOTE:
            raise JsonMalformed(f"{found[0]!r} where a key of an object should begin")
        self._step = self._in_key
        return found.start()

    def _in_key(self, data: bytes, position: int) -> int:
        end = self._scanner.end_of(data, position)
        self._keep(data, position, end, self._key_bytes_max)
        if end >= 0:
            key = self._take_token(self._key_bytes_max)
            self._begin_member(key[0] if key else None)
            self._step = self._before_colon
        return end

    def _begin_member(self, key: Scalar) -> None:
        path = (*self._outer, key) if isinstance(key, str) else None
        self._path = path if path in self._missing or path in self._branches else None

    def _before_colon(self, data: bytes, position: int) -> int:
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        if data[found.start()] != COLON:
            raise JsonMalformed(f"{found[0]!r} behind a key of an object")
        self._step = self._before_value
        return found.end()

    def _before_value(self, data: bytes, position: int) -> int:
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        start, byte = found.start(), data[found.start()]
        if byte == COMMA or byte == COLON or byte in CLOSING:
            raise JsonMalformed(f"{found[0]!r} where a value should begin")
        if byte == OBJECT_OPENING and self._path in self._branches:
            return self._enter_object(start + 1)
        if byte == QUOTE and self._path is not None and self._path in self._missing:
            word = _WORD_AS_VALUE.match(data, start)
            if word is not None and word.end() - start <= self._value_bytes_max:
                self.found[self._path] = word[1].decode("ascii")
                self._leave_value()
                return word.end()
        if byte in OPENING or (byte == QUOTE and self._path not in self._missing):
            self._step = self._in_skipped
            return self._in_skipped(data, start)
        self._step = self._in_string if byte == QUOTE else self._in_literal
        return start

    def _in_skipped(self, data: bytes, position: int) -> int:
        end = self._scanner.end_of(data, position)
        if end >= 0:
            self._leave_value()
        return end

    def _in_string(self, data: bytes, position: int) -> int:
        end = self._scanner.end_of(data, position)
        self._keep(data, position, end, self._value_bytes_max)
        if end >= 0:
            self._find_value()
        return end

    def _in_literal(self, data: bytes, position: int) -> int:
        behind = _BEHIND_LITERAL.search(data, position)
        end = behind.start() if behind else -1
        self._keep(data, position, end, self._value_bytes_max)
        if end >= 0:
            self._find_value()
        return end

    def _behind_value(self, data: bytes, position: int) -> int:
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        byte = data[found.start()]
        if byte == OBJECT_CLOSING:
            return self._leave_object(found.end())
        if byte != COMMA:
            raise JsonMalformed(f"{found[0]!r} behind a member of an object")
        self._step = self._before_key
        return found.end()

    def _enter_object(self, position: int) -> int:
        assert self._path is not None
        self._branches.discard(self._path)
        self._missing.discard(self._path)
        self._outer = self._path
        self._step = self._before_key
        return position

    def _leave_object(self, position: int) -> int:
        if not self._outer:
            self.is_done = True
        self._path, self._outer = self._outer, self._outer[:-1]
        self._leave_value()
        return position

    def _find_value(self) -> None:
        value = self._take_token(self._value_bytes_max)
        if value and self._path in self._missing:
            assert self._path is not None
            self.found[self._path] = value[0]
        self._leave_value()

    def _leave_value(self) -> None:
        """The member is over; with it everything that was wanted at or below its path has had its chance."""
        if self._path is not None:
            depth = len(self._path)
            self._missing = {path for path in self._missing if path[:depth] != self._path}
            self._branches.discard(self._path)
            self.is_done = self.is_done or not self._missing
        self._step = self._behind_value

    def _keep(self, data: bytes, start: int, end: int, bytes_max: int) -> None:
        piece = data[start:] if end < 0 else data[start:end]
        self._token_bytes += len(piece)
        if self._token_bytes <= bytes_max:
            self._token.append(piece)

    def _take_token(self, bytes_max: int) -> tuple[Scalar] | None:
        """Return the value of the token just read, or None if it was too long or is no JSON."""
        raw, size = b"".join(self._token), self._token_bytes
        self._token.clear()
        self._token_bytes = 0
        if size > bytes_max:
            return None
        try:
            return (orjson.loads(raw),)
        except orjson.JSONDecodeError:
            return None


@lru_cache(maxsize=64)
def _plan(wanted: frozenset[Path]) -> tuple[frozenset[Path], frozenset[Path], int]:
    """Return the wanted paths, those of the objects on the way to them, and how long a key may be that matters."""
    branches = frozenset(path[:length] for path in wanted for length in range(1, len(path)))
    longest_key = max((len(key) for path in wanted for key in path), default=0)
    return wanted, branches, BYTES_PER_KEY_CHARACTER_MAX * longest_key + len('""')
