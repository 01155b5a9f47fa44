"""`wiremeter tail`, with a publisher like the accountant's."""

import json
from collections.abc import Iterator

import pytest

from services.cli.tail import tail
from tests.support.checkout import free_ports
from tests.support.usage_topic import usage_topic


@pytest.fixture
def endpoint() -> Iterator[str]:
    with usage_topic() as found:
        yield found


def test_a_line_per_record(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Below a heading; what is no record is passed over."""
    assert tail(endpoint, as_json=False, count=3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["time", "model", "outcome"]
    assert [line.split()[1:3] for line in lines[1:]] == [["m", "ok"]] * 3


def test_records_as_they_are(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object per line, and a word on stderr about those that were missed."""
    assert tail(endpoint, as_json=True, count=6) == 0
    shown = capsys.readouterr()
    records = [json.loads(line) for line in shown.out.splitlines()]
    assert [record["schema"] for record in records] == ["wiremeter.usage/1"] * 6
    assert "2 missed; GET /v1/usage/events?after=" in shown.err


def test_nobody_publishes(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3 at once instead of waiting without a word."""
    (port,) = free_ports(1)
    assert tail(f"tcp://127.0.0.1:{port}", as_json=False, count=None) == 3
    assert "make run" in capsys.readouterr().err
