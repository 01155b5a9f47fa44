"""
JSON that arrives piecewise: the elements of an array, or the lines of a JSON-lines body, one by one as they finish.

Source  RFC 8259 for JSON; Google's answers without `alt=sse` are one array whose elements arrive one after the other.
Limits  One element, or one line, is at most `element_bytes_max` long.
Rules   Only brackets and strings are followed, so that no byte is looked at twice and nothing is built for values that
        nobody wants. Whether an element is JSON is for the JSON parser to say.
"""

import re

from services.wire.errors import WireError

# One generated image, base64 in JSON, is several megabytes, and an answer that is no array may hold a few of them.
ELEMENT_BYTES_MAX = 32 * 1024 * 1024

WHITE_SPACE = b" \t\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_BRACKET_OR_QUOTE = re.compile(rb'["{}\[\]]')
# The next one, over strings that are short and have no escapes: most are keys and words. For a long one the searches of
# `_end_of_string` are faster by far, so that no more than this is tried before it is left to them.
_PLAIN = rb'[^"{}\[\]]++|"[^"\\]{0,64}+"'
# And over brackets with nothing but that in them, so that a tree costs no step for each of its leaves.
_BEHIND_SHORT = re.compile(rb'(?>(?:%b|[{\[](?>(?:%b)*)[}\]])*)["{}\[\]]' % (_PLAIN, _PLAIN))
# A quote that is not escaped, or may not be: with two backslashes before it, their number decides.
_MAYBE_END_OF_STRING = re.compile(rb'"(?:(?<!\\")|(?<=\\\\"))')
_SIGNIFICANT = re.compile(rb"[^ \t\r\n]")
_BEHIND_LITERAL = re.compile(rb"[ \t\r\n,\]}]")

QUOTE = ord('"')
BACKSLASH = ord("\\")
COMMA = ord(",")
OPENING = frozenset(b"{[")
CLOSING = frozenset(b"}]")
ARRAY_OPENING, ARRAY_CLOSING = ord("["), ord("]")


class JsonMalformed(WireError):
    """Text that no JSON could contain at its place."""


class JsonElementTooLarge(WireError):
    """One element is longer than the reader was told to hold."""


class ValueScanner:
    """Finds the end of one JSON object, array or string that may be cut anywhere; reusable for the next one."""

    __slots__ = ("_depth", "_in_string", "_is_escaped")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def end_of(self, data: bytes, position: int) -> int:
        """
        Scan on from `position`, which for a new value is its opening bracket or quote.

        Returns:
            The index behind the value's last byte, or -1 when `data` ends before it.
        """
        depth = self._depth
        is_in_string, self._in_string = self._in_string, False
        while True:
            if is_in_string:
                position = self._end_of_string(data, position)
                if position < 0:
                    self._in_string = True
                    break
                if not depth:
                    return position
            found = _BEHIND_SHORT.match(data, position) if depth else _BRACKET_OR_QUOTE.search(data, position)
            if found is None:
                break
            position = found.end()
            byte = data[position - 1]
            is_in_string = byte == QUOTE
            if byte in OPENING:
                depth += 1
            elif not is_in_string:
                depth -= 1
                if not depth:
                    self._depth = 0
                    return position
        self._depth = depth
        return -1

    def _end_of_string(self, data: bytes, position: int) -> int:
        if self._is_escaped:
            if position >= len(data):
                return -1
            self._is_escaped = False
            position += 1
        if data[position : position + 1] == b'"':
            return position + 1
        # Most strings end at their first quote, which is found fastest so, whatever else is escaped in them.
        quote = data.find(b'"', position)
        while quote >= 0:
            if not _is_escaped(data, position, quote):
                return quote + 1
            found = _MAYBE_END_OF_STRING.search(data, quote + 1)
            quote = found.start() if found else -1
        self._is_escaped = _is_escaped(data, position, len(data))
        return -1


def _is_escaped(data: bytes, start: int, end: int) -> bool:
    """Say whether the byte at `end`, of a string that goes on at `start`, has a backslash before it that escapes it."""
    first = end
    while first > start and data[first - 1] == BACKSLASH:
        first -= 1
    return (end - first) % 2 == 1


class JsonElementReader:
    """
    Hands out the elements of one JSON array, or the one object that a body is, as raw bytes.

    Attributes:
        is_array: Whether the body is an array; None before its first significant byte.
        is_closed: Whether the array, or the object, has ended.
    """

    def __init__(self, *, element_bytes_max: int = ELEMENT_BYTES_MAX) -> None:
        self.is_array: bool | None = None
        self.is_closed = False
        self._element_bytes_max = element_bytes_max
        self._scanner = ValueScanner()
        self._pieces: list[bytes] = []
        self._element_bytes = 0
        self._step = self._before_body
        self._may_close = True
        self._found: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """
        Read the next piece of the body.

        Returns:
            The elements that it finished, in order.

        Raises:
            JsonMalformed: Neither array nor object, or text between or behind the elements.
            JsonElementTooLarge: In both cases the reader is of no use afterwards.
        """
        position = 0
        while 0 <= position < len(data):
            position = self._step(data, position)
        found, self._found = self._found, []
        return found

    # Each step reads from `position` and returns where the next one goes on, or -1 when `data` is used up.

    def _before_body(self, data: bytes, position: int) -> int:
        if self._element_bytes < len(BYTE_ORDER_MARK) and data[position] == BYTE_ORDER_MARK[self._element_bytes]:
            self._element_bytes += 1
            return position + 1
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        self._element_bytes = 0
        byte = data[found.start()]
        if byte == ARRAY_OPENING:
            self.is_array = True
            self._step = self._before_element
            return found.end()
        if byte not in OPENING:
            raise JsonMalformed(f"body begins with {data[found.start() : found.end()]!r}, neither array nor object")
        self.is_array = False
        self._step = self._in_value
        return found.start()

    def _before_element(self, data: bytes, position: int) -> int:
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        byte = data[found.start()]
        if byte == ARRAY_CLOSING and self._may_close:
            return self._close(found.end())
        if byte == COMMA or byte in CLOSING:
            raise JsonMalformed(f"{chr(byte)!r} where an element of the array should begin")
        self._step = self._in_value if byte == QUOTE or byte in OPENING else self._in_literal
        return found.start()

    def _in_value(self, data: bytes, position: int) -> int:
        end = self._scanner.end_of(data, position)
        self._keep(data, position, end)
        if end >= 0:
            self._finish_element()
        return end

    def _in_literal(self, data: bytes, position: int) -> int:
        found = _BEHIND_LITERAL.search(data, position)
        end = found.start() if found else -1
        self._keep(data, position, end)
        if found:
            self._finish_element()
        return end

    def _behind_element(self, data: bytes, position: int) -> int:
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        byte = data[found.start()]
        if byte == ARRAY_CLOSING:
            return self._close(found.end())
        if byte != COMMA:
            raise JsonMalformed(f"{chr(byte)!r} behind an element of the array")
        self._may_close = False
        self._step = self._before_element
        return found.end()

    def _behind_body(self, data: bytes, position: int) -> int:
        found = _SIGNIFICANT.search(data, position)
        if found is None:
            return -1
        raise JsonMalformed(f"{data[found.start() : found.end()]!r} behind the end of the JSON text")

    def _keep(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:] if end < 0 else data[start:end]
        self._element_bytes += len(piece)
        if self._element_bytes > self._element_bytes_max:
            raise JsonElementTooLarge(
                f"JSON element of {self._element_bytes} bytes or more exceeds {self._element_bytes_max}"
            )
        self._pieces.append(piece)

    def _finish_element(self) -> None:
        self._found.append(b"".join(self._pieces))
        self._pieces.clear()
        self._element_bytes = 0
        if self.is_array:
            self._step = self._behind_element
        else:
            self._close(0)

    def _close(self, position: int) -> int:
        self.is_closed = True
        self._step = self._behind_body
        return position


class JsonLineReader:
    """Hands out the lines of a JSON-lines body (LF or CRLF), without their ends; empty lines are nothing."""

    def __init__(self, *, line_bytes_max: int = ELEMENT_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._pieces: list[bytes] = []
        self._line_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """
        Read the next piece of the body and return the lines that it finished.

        Raises:
            JsonElementTooLarge: The reader is of no use afterwards.
        """
        *finished, rest = data.split(b"\n")
        if finished and self._pieces:
            self._pieces.append(finished[0])
            finished[0] = b"".join(self._pieces)
            self._pieces.clear()
            self._line_bytes = 0
        if rest:
            self._pieces.append(rest)
            self._line_bytes += len(rest)
        longest = max([self._line_bytes, *map(len, finished)])
        if longest > self._line_bytes_max:
            raise JsonElementTooLarge(f"JSON line of {longest} bytes or more exceeds {self._line_bytes_max}")
        return [line for line in (line.strip(WHITE_SPACE) for line in finished) if line]

    def end(self) -> bytes | None:
        """The body is over: return the line that had no end, perhaps cut, or None."""
        line = b"".join(self._pieces).strip(WHITE_SPACE)
        self._pieces.clear()
        return line or None
