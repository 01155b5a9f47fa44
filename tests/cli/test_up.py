"""`wiremeter up`, where it does not need the whole system; tests/processes/test_make_run.py has its story."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from services.cli.process import ProcessTree
from services.cli.up import ports_taken, state_taken, up
from services.cli.upstream import Api
from services.runtime.settings import Settings, settings_from
from services.runtime.state import StateDirectory
from tests.support.checkout import checkout, own_ports
from tests.support.eventually import eventually
from tests.support.stub_services import Tree


def settings(**changes: str) -> Settings:
    problems: list[str] = []
    found = settings_from({}, own_ports() | changes, problems)
    assert problems == []
    return found


def tree_state(tree: Tree) -> StateDirectory:
    state = StateDirectory(home=tree.copy.home)
    state.make()
    return state


@pytest.fixture
def tree() -> Iterator[Tree]:
    with checkout() as copy:
        yield Tree(copy)


def test_each_port_that_is_taken_is_named_with_its_holder() -> None:
    """And with the setting that moves ours."""
    found = settings()
    assert ports_taken(found) == []
    with socket.create_server(("127.0.0.1", found.frontproxy.port)):
        (line,) = ports_taken(found)
    assert line.startswith(f"port {found.frontproxy.port} is taken by pid {os.getpid()} (")
    assert line.endswith("; stop that, or set frontproxy.port")


def test_the_simulators_port_matters_only_where_it_may_run() -> None:
    """A real language server needs none."""
    found = settings(WIREMETER_LSRUNNER_PROFILE="antigravity")
    with socket.create_server(("127.0.0.1", found.simulator.port)):
        assert ports_taken(found) == []


def test_nothing_is_started_on_ports_that_are_taken(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and no process."""
    found = settings()
    with socket.create_server(("127.0.0.1", found.mitm.port)):
        assert up(found, tree_state(tree), ProcessTree(tree.copy.root), Api(found.frontproxy.port)) == 1
    assert "or set mitm.port" in capsys.readouterr().err
    assert tree.copy.processes() == {}


def test_nothing_is_started_on_a_state_directory_in_use(
    tree: Tree, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another checkout, on other ports: its processes would fight with ours for each role."""
    monkeypatch.setattr("services.cli.up._ENDING_TIMEOUT_S", 0.2)
    found, state = settings(), tree_state(tree)
    held = state.take_role("mitm-0")
    try:
        assert up(found, state, ProcessTree(tree.copy.root), Api(found.frontproxy.port)) == 1
    finally:
        os.close(held)
    shown = capsys.readouterr().err
    assert shown.startswith(f"{state.home} is in use by pid {os.getpid()} (")
    assert shown.endswith("; stop the Wiremeter that it belongs to, or set WIREMETER_HOME\n")
    assert tree.copy.processes() == {}


def test_those_of_a_wiremeter_that_ends_are_waited_for(tree: Tree) -> None:
    """Also when supervisord was killed and they still let their work drain."""
    state = tree_state(tree)
    held = state.take_role("accountant")
    ending = threading.Timer(0.3, os.close, [held])
    ending.start()
    assert state_taken(state) == []
    ending.join()


def test_a_second_one_finds_the_first(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so and shows the status; these here run without working, which it says too, with the log."""
    tree.start()
    eventually("all started", tree.all_started)
    found = settings()
    assert up(found, tree_state(tree), ProcessTree(tree.copy.root), Api(found.frontproxy.port)) == 1
    shown = capsys.readouterr()
    assert "is running here already (supervisord has pid" in shown.out
    assert "mitm:mitm-1" in shown.out
    assert "make stop" in shown.out
    assert "does not work yet: accountant is starting" in shown.err
    assert f"{tree.run / 'accountant.log'}:\n  started accountant\n" in shown.err


def test_a_refused_configuration_is_shown_with_the_log_of_who_refused(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, and everything is left as it is."""
    (tree.run / "mitm-1.plan").write_text("78")
    found = settings()
    assert up(found, tree_state(tree), ProcessTree(tree.copy.root), Api(found.frontproxy.port)) == 1
    shown = capsys.readouterr().err
    assert "did not come up: mitm-1 refuses its configuration (status 78)" in shown
    assert f"{tree.run / 'mitm-1.log'}:\n  started mitm-1\n" in shown
    assert tree.states()["accountant"] == "RUNNING"
