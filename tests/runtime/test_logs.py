"""Logs: one JSON object per line."""

import io
import json
from typing import Any

from services.runtime.logs import Level, Logs


class Gone:
    """The end of a pipe that nobody reads any more."""

    def write(self, _: bytes, /) -> object:
        raise BrokenPipeError

    def flush(self) -> object:
        raise ValueError("closed")


def lines(sink: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_a_line_says_when_who_what() -> None:
    """And then whatever belongs to it."""
    sink = io.BytesIO()
    Logs("mitm-0", sink=sink).info("exchange.finished", exchange="01J", bytes=5)
    (line,) = lines(sink)
    assert list(line) == ["at", "level", "process", "event", "exchange", "bytes"]
    assert (line["level"], line["process"], line["event"]) == ("info", "mitm-0", "exchange.finished")
    assert line["at"].endswith("Z")


def test_levels_below_the_chosen_one_are_left_out() -> None:
    """Debug lines appear when they are asked for."""
    sink = io.BytesIO()
    logs = Logs("p", sink=sink)
    logs.debug("> sent")
    logs.level = Level.DEBUG
    logs.debug("> sent")
    logs.warning("disk.full")
    assert [line["level"] for line in lines(sink)] == ["debug", "warning"]


def test_an_error_carries_its_traceback_on_one_line() -> None:
    """So that the file stays one object per line."""
    sink = io.BytesIO()
    try:
        raise ValueError("wrong\nway")
    except ValueError as error:
        Logs("p", sink=sink).error("process.failed", error=error)
    (line,) = lines(sink)
    assert line["error"] == "ValueError: wrong\nway"
    assert "test_logs.py" in line["traceback"]


def test_what_is_no_json_is_written_as_text() -> None:
    """A log line never fails."""
    sink = io.BytesIO()
    Logs("p", sink=sink).info("x.happened", path=io.BytesIO)
    assert "BytesIO" in lines(sink)[0]["path"]


def test_a_reader_that_has_gone_stops_nothing() -> None:
    """supervisord may be killed while we write."""
    Logs("p", sink=Gone()).error("x.happened")
