"""`wiremeter status`."""

from pathlib import Path

import pytest

from services.cli.process import ProcessTree
from services.cli.status import status
from services.runtime.settings import Settings
from services.runtime.state import StateDirectory
from tests.support.checkout import checkout
from tests.support.eventually import eventually
from tests.support.stub_services import Tree


def test_it_tells_where_everything_is_also_when_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3, and how to start."""
    assert status(Settings(), StateDirectory(home=tmp_path), ProcessTree(tmp_path)) == 3
    shown = capsys.readouterr()
    for each in (str(tmp_path / "ledger.sqlite3"), "http://127.0.0.1:8741", "tcp://127.0.0.1:8743", "8742"):
        assert each in shown.out
    assert "make run" in shown.err


def test_its_exit_status_says_whether_all_are_up(capsys: pytest.CaptureFixture[str]) -> None:
    """0 when they are, 1 when one is not."""
    with checkout() as copy:
        tree = Tree(copy)
        tree.start()
        eventually("all started", tree.all_started)
        ours, state = ProcessTree(copy.root), StateDirectory(home=copy.home)
        eventually("all run", lambda: {process.state for process in ours.processes()} == {"RUNNING"})
        assert status(Settings(), state, ours) == 0
        copy.supervisorctl("stop", "lsrunner")
        assert status(Settings(), state, ours) == 1
    assert "STOPPED" in capsys.readouterr().out
