"""Sinks for the log of what is tested."""

import json
from typing import Any


class LogText:
    """
    Keeps the log as it is written.

    Attributes:
        text: All of it.
    """

    def __init__(self) -> None:
        self.text = b""

    def write(self, line: bytes, /) -> object:
        self.text += line
        return None

    def flush(self) -> object:
        return None


class LogLines:
    """
    Keeps the log as objects.

    Attributes:
        lines: One for each line, in order.
    """

    def __init__(self, lines: list[dict[str, Any]] | None = None) -> None:
        self.lines = [] if lines is None else lines

    def write(self, line: bytes, /) -> object:
        self.lines.append(json.loads(line))
        return None

    def flush(self) -> object:
        return None
