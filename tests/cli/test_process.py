"""Our process tree, asked through supervisord's control socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.process import ProcessTree, TreeFailed, last_lines, problem_once_started, wait_until
from tests.support.checkout import checkout
from tests.support.eventually import eventually
from tests.support.stub_services import Tree


@pytest.fixture
def tree() -> Iterator[Tree]:
    with checkout() as copy:
        yield Tree(copy)


def test_a_tree_is_started_asked_and_shut_down(tree: Tree) -> None:
    """Its processes come in the order in which they start, with their logs."""
    ours = ProcessTree(tree.copy.root)
    assert ours.pid() is None
    ours.start()
    eventually("all run", lambda: {process.state for process in ours.processes()} == {"RUNNING"})
    pid = ours.pid()
    assert pid is not None and Path(f"/proc/{pid}").exists()
    assert sorted(process.name for process in ours.processes()) == [
        "accountant",
        "frontproxy",
        "lsrunner",
        "mitm-0",
        "mitm-1",
    ]
    assert {process.log.parent for process in ours.processes()} == {tree.run}
    assert "mitm:mitm-1" in ours.status()
    ours.shut_down()
    eventually("gone", lambda: not tree.copy.processes(), timeout_s=30)
    assert ours.pid() is None
    with pytest.raises(TreeFailed, match="does not answer"):
        ours.shut_down()


def test_a_second_start_says_why_it_cannot(tree: Tree) -> None:
    """In supervisord's own words."""
    ours = ProcessTree(tree.copy.root)
    ours.start()
    with pytest.raises(TreeFailed, match="Another program is already listening"):
        ours.start()


def test_a_configuration_that_ends_a_process_is_seen(tree: Tree) -> None:
    """Its exit status is 78, and it is down."""
    (tree.run / "lsrunner.plan").write_text("78")
    ours = ProcessTree(tree.copy.root)
    ours.start()
    down = eventually("one is down", lambda: [p for p in ours.processes() if p.is_down and p.exit_status == 78])
    assert [process.name for process in down] == ["lsrunner"]


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    """However long it is; none of one that is not there."""
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {n}\n" for n in range(100_000)))
    assert last_lines(log, 2) == ["line 99998", "line 99999"]
    assert last_lines(tmp_path / "none", 2) == []


def test_waiting_has_an_end() -> None:
    """The condition is asked at least once."""
    asked: list[int] = []
    assert not wait_until(lambda: bool(asked.append(1)), 0)
    assert asked
    assert wait_until(lambda: True, 0)


@pytest.mark.parametrize(
    ("pid", "answers"), [(None, ["no"]), (1, [None]), (1, ["no", "no", None, None])], ids=["nothing", "well", "starts"]
)
def test_a_start_gets_the_time_that_it_takes(pid: int | None, answers: list[str | None]) -> None:
    """Where nothing runs there is nothing to wait for."""

    class Asked(ProcessTree):
        def pid(self) -> int | None:
            return pid

    left = iter(answers)
    assert problem_once_started(Asked(Path("/nonexistent")), lambda: next(left)) == answers[-1]
    assert list(left) == []
