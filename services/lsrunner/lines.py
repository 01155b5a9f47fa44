"""
What a program writes to its standard error: bytes in any split to bounded lines, of which the last are kept.

The language server's log may quote prompts and answers. It is kept in memory only, for the profile that looks for its
port or its login there and for `tail`; what the runner logs about it are counts.
"""

from collections import deque

LINE_BYTES_MAX = 16 * 1024
# Crash reports of Go programs are long; 256 KiB hold one (the same is kept by the vendor's own launcher).
KEPT_BYTES_MAX = 256 * 1024


class LineMemory:
    """
    The last lines of one stream.

    Attributes:
        lines_seen: Lines since the start, forgotten ones included.
        bytes_seen: Bytes since the start.
    """

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._kept_bytes_max = kept_bytes_max
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._partial = bytearray()
        self.lines_seen = 0
        self.bytes_seen = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        self.bytes_seen += len(data)
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._append(piece)
            self._end_line()
        self._append(rest)

    def end(self) -> None:
        """Nothing more comes: what has no line end is a line too."""
        if self._partial:
            self._end_line()

    def _append(self, piece: bytes) -> None:
        room = self._line_bytes_max - len(self._partial)
        self._partial += piece[:room]

    def _end_line(self) -> None:
        line = bytes(self._partial).removesuffix(b"\r")
        self._partial.clear()
        self.lines_seen += 1
        self._kept.append(line)
        self._kept_bytes += len(line) + 1
        while self._kept_bytes > self._kept_bytes_max:
            self._kept_bytes -= len(self._kept.popleft()) + 1

    def since(self, number: int) -> tuple[int, list[str]]:
        """Return the lines from `number` (counted from 0) on that are still kept, and the number of the next."""
        first = self.lines_seen - len(self._kept)
        kept = list(self._kept)[max(0, number - first) :]
        return self.lines_seen, [line.decode(errors="replace") for line in kept]

    def tail(self) -> str:
        """Return everything that is kept."""
        return "\n".join(line.decode(errors="replace") for line in self._kept)
