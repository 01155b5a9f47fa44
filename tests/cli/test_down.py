"""`wiremeter down`."""

import os
import signal
import socket
from pathlib import Path

import pytest

from services.cli.down import down
from services.cli.process import ProcessTree
from services.runtime.state import StateDirectory
from tests.support.checkout import checkout
from tests.support.eventually import eventually
from tests.support.stub_services import Tree


def leave_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_it_leaves_no_process_and_no_socket(capsys: pytest.CaptureFixture[str]) -> None:
    """Sockets of processes that were killed go too; the ledger stays."""
    with checkout() as copy:
        tree, state = Tree(copy), StateDirectory(home=copy.home)
        state.make()
        leave_socket(state.run / "usage.ipc")
        state.ledger.touch()
        tree.start()
        eventually("all started", tree.all_started)
        assert down(state, ProcessTree(copy.root)) == 0
        assert copy.processes() == {}
        assert [path.name for path in copy.root.rglob("*") if path.is_socket()] == []
        assert state.ledger.exists()
    assert capsys.readouterr().out == "stopping …\nstopped; the ledger stays.\n"


def test_when_nothing_runs_it_says_so_and_cleans_up(capsys: pytest.CaptureFixture[str]) -> None:
    """A supervisord that was killed leaves its socket."""
    with checkout() as copy:
        tree, state = Tree(copy), StateDirectory(home=copy.home)
        tree.start()
        eventually("all started", tree.all_started)
        pid = ProcessTree(copy.root).pid()
        assert pid is not None
        services = [tree.starts(name)[-1][0] for name in ("accountant", "frontproxy", "lsrunner", "mitm-0", "mitm-1")]
        for each in (pid, *services):
            os.kill(each, signal.SIGKILL)
        eventually("gone", lambda: not copy.processes())
        assert (copy.root / "run" / "supervisor.sock").is_socket()
        assert down(state, ProcessTree(copy.root)) == 0
        assert not (copy.root / "run" / "supervisor.sock").exists()
    assert "not running here" in capsys.readouterr().out


def test_sockets_of_another_tree_on_the_same_state_stay() -> None:
    """Whoever holds a role there is running."""
    with checkout() as copy:
        state = StateDirectory(home=copy.home)
        state.make()
        leave_socket(state.run / "usage.ipc")
        lock = state.take_role("accountant")
        try:
            assert down(state, ProcessTree(copy.root)) == 0
            assert (state.run / "usage.ipc").exists()
        finally:
            os.close(lock)
