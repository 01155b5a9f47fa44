"""
Logs: one JSON object per line on stderr; supervisord owns the files.

    {"at": "…Z", "level": "info", "process": "mitm-0", "event": "exchange.finished", "exchange": "01J…", …}

Event names are `noun.past_verb`. Keys, tokens, prompts and bodies never get here. A reader that has gone away (a
supervisord that was killed) must not stop the work: a line that cannot be written is dropped.
"""

import sys
import traceback
from datetime import UTC, datetime
from enum import IntEnum
from typing import Protocol

import orjson


class Level(IntEnum):
    """Error means that someone should look."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: bytes, /) -> object: ...
    def flush(self) -> object: ...


class Logs:
    """Writes the lines of one process."""

    __slots__ = ("_process", "_sink", "level")

    def __init__(self, process: str, *, sink: Sink | None = None, level: Level = Level.INFO) -> None:
        self._process = process
        self._sink: Sink = sink or sys.stderr.buffer
        self.level = level

    def debug(self, event: str, **fields: object) -> None:
        """Write for those who follow one connection."""
        if self.level <= Level.DEBUG:
            self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write what happened."""
        if self.level <= Level.INFO:
            self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write what went wrong and was coped with."""
        if self.level <= Level.WARNING:
            self._write("warning", event, fields)

    def error(self, event: str, *, error: BaseException | None = None, **fields: object) -> None:
        """Write what someone should look at, with the traceback of `error`."""
        if error is not None:
            fields["error"] = f"{type(error).__name__}: {error}"
            fields["traceback"] = "".join(traceback.format_exception(error))
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        at = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"  # faster than `strftime`
        line = {"at": at, "level": level, "process": self._process, "event": event, **fields}
        try:
            self._sink.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
            self._sink.flush()
        except (OSError, ValueError):
            pass  # nobody reads any more; the work goes on
