"""`wiremeter tail`, with a publisher like the accountant's."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.cli.process import ProcessTree
from services.cli.tail import tail
from tests.support.checkout import free_ports
from tests.support.usage_topic import usage_topic

NOTHING_RUNS = ProcessTree(Path("/nonexistent"))


@pytest.fixture
def endpoint() -> Iterator[str]:
    with usage_topic() as found:
        yield found


def test_a_line_per_record(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Below a heading; what is no record is passed over."""
    assert tail(endpoint, NOTHING_RUNS, as_json=False, count=3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["time", "model", "outcome"]
    assert [line.split()[1:3] for line in lines[1:]] == [["m", "ok"]] * 3


def test_records_as_they_are(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object per line, and a word on stderr about those that were missed."""
    assert tail(endpoint, NOTHING_RUNS, as_json=True, count=6) == 0
    shown = capsys.readouterr()
    records = [json.loads(line) for line in shown.out.splitlines()]
    assert [record["schema"] for record in records] == ["wiremeter.usage/1"] * 6
    assert "2 missed; GET /v1/usage/events?after=" in shown.err


class Tree(ProcessTree):
    """supervisord runs, and `begin` is what its accountant does once somebody has looked."""

    def __init__(self, begin: Callable[[], object] = lambda: None) -> None:
        super().__init__(Path("/nonexistent"))
        self._begin = begin

    def pid(self) -> int:
        self._begin()
        self._begin = lambda: None
        return 1


def free_endpoint() -> str:
    (port,) = free_ports(1)
    return f"tcp://127.0.0.1:{port}"


def test_nobody_publishes(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3 at once instead of waiting without a word."""
    assert tail(free_endpoint(), NOTHING_RUNS, as_json=False, count=None) == 3
    assert "Connection refused\nWiremeter is not running here; start it with: make run" in capsys.readouterr().err


def test_it_waits_for_an_accountant_that_is_starting() -> None:
    """`make run` in one terminal, this in another."""
    endpoint = free_endpoint()
    with contextlib.ExitStack() as stack:
        tree = Tree(lambda: stack.enter_context(usage_topic(endpoint)))
        assert tail(endpoint, tree, as_json=False, count=1) == 0


def test_an_accountant_that_does_not_come_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then something is wrong with it, and starting Wiremeter is no help."""
    monkeypatch.setattr("services.cli.process._START_TIMEOUT_S", 0.0)
    assert tail(free_endpoint(), Tree(), as_json=False, count=None) == 3
    assert "Wiremeter runs here, but not all of it; `wiremeter status` tells more" in capsys.readouterr().err
