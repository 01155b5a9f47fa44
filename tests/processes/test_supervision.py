"""supervisord.conf with the real supervisord and services that only note that they were started."""

import contextlib
import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import supervisor

from tests.support.checkout import checkout
from tests.support.eventually import eventually
from tests.support.stub_services import PROCESSES, Tree


@pytest.fixture
def tree() -> Iterator[Tree]:
    with checkout() as copy:
        yield Tree(copy)


def test_status_without_arguments_shows_every_process(tree: Tree) -> None:
    """`supervisorctl status` in the checkout lists our five processes, running."""
    tree.start()
    assert eventually("all run", lambda: (s := tree.states()) and set(s.values()) == {"RUNNING"} and s)
    assert sorted(tree.states()) == PROCESSES


def test_services_run_on_the_interpreter_that_runs_supervisord(tree: Tree) -> None:
    """Whether or not a virtual environment is activated."""
    tree.copy.environ.pop("VIRTUAL_ENV", None)
    (tree.copy.root / ".venv").unlink()
    tree.start()
    eventually("all started", tree.all_started)
    assert {tree.starts(name.rpartition(":")[2])[0][2] for name in PROCESSES} == {sys.executable}


def test_its_own_files_are_ours_alone(tree: Tree) -> None:
    """Other users can use the control socket no more than they can read what the services say."""
    tree.start()
    eventually("all started", tree.all_started)
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tree.run.iterdir()}
    assert rights["supervisor.sock"] == 0o700
    # supervisord opens its own log before it sets its umask; starts and exits are no secret.
    assert {name for name, right in rights.items() if right & 0o077} <= {"supervisord.log"}


def test_a_process_killed_twice_in_a_second_comes_back(tree: Tree) -> None:
    """Quick deaths never add up to FATAL."""
    tree.start()
    eventually("all started", tree.all_started)
    for count in range(1, 6):
        os.kill(tree.starts("accountant")[-1][0], signal.SIGKILL)
        eventually("started again", lambda count=count: len(tree.starts("accountant")) > count)
    assert tree.states()["accountant"] == "RUNNING"


def test_a_crash_loop_goes_on_without_spinning(tree: Tree) -> None:
    """A process that fails at once is started about once a second for as long as it takes."""
    (tree.run / "lsrunner.plan").write_text("1")
    tree.start()
    eventually("six starts", lambda: len(tree.starts("lsrunner")) >= 6, timeout_s=20)
    times = [at for _, at, _ in tree.starts("lsrunner")]
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.9
    (tree.run / "lsrunner.plan").unlink()
    eventually("runs at last", lambda: tree.states().get("lsrunner") == "RUNNING")


def test_a_clean_exit_that_nobody_asked_for_is_started_again(tree: Tree) -> None:
    """Status 0 without a request to stop is no reason to stay down."""
    (tree.run / "frontproxy.plan").write_text("0")
    tree.start()
    eventually("three starts", lambda: len(tree.starts("frontproxy")) >= 3)


def test_a_mistake_in_the_configuration_stays_down_and_visible(tree: Tree) -> None:
    """Status 78 is not worth a restart; the others run on."""
    (tree.run / "mitm-1.plan").write_text("78")
    tree.start()
    eventually("all started", tree.all_started)
    eventually("this one ended", lambda: tree.states().get("mitm:mitm-1") == "EXITED")
    # A start of another process proves that supervisord has been round since.
    os.kill(tree.starts("mitm-0")[-1][0], signal.SIGKILL)
    eventually("mitm-0 again", lambda: len(tree.starts("mitm-0")) == 2)
    assert len(tree.starts("mitm-1")) == 1
    assert tree.states()["mitm:mitm-1"] == "EXITED"
    (tree.run / "mitm-1.plan").unlink()
    tree.copy.supervisorctl("start", "mitm:mitm-1")
    assert tree.states()["mitm:mitm-1"] == "RUNNING"


def test_shutdown_leaves_no_process_and_no_socket(tree: Tree) -> None:
    """Whoever makes work stops before whoever receives it; then nothing is left."""
    tree.start()
    eventually("all started", tree.all_started)
    tree.copy.supervisorctl("shutdown")
    eventually("all gone", lambda: not tree.copy.processes(), timeout_s=30)
    assert [path.name for path in tree.run.iterdir() if path.is_socket()] == []
    stopped = [line.split("stopped: ")[1].split()[0] for line in log_lines(tree.run) if "stopped: " in line]
    assert [name.partition("-")[0] for name in stopped] == ["frontproxy", "lsrunner", "mitm", "mitm", "accountant"]


def test_a_killed_supervisord_does_not_keep_its_successor_from_starting(tree: Tree) -> None:
    """Its socket and pid file are left over."""
    tree.start()
    eventually("all started", tree.all_started)
    for pid in [int((tree.run / "supervisord.pid").read_text()), *tree.copy.processes()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually("all gone", lambda: not tree.copy.processes())
    assert (tree.run / "supervisor.sock").is_socket()
    tree.start()
    eventually("all run", lambda: (s := tree.states()) and set(s.values()) == {"RUNNING"} and s)


def log_lines(run: Path) -> list[str]:
    return (run / "supervisord.log").read_text().splitlines()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become an ordinary user")
def test_an_ordinary_user_can_do_the_same(tree: Tree) -> None:
    """As `nobody`, with the system's own Python, who can enter no private directory of the user who runs the tests."""
    root = tree.copy.root
    shutil.copytree(Path(supervisor.__file__).parent, root / "lib" / "supervisor")
    (root / ".venv").unlink()
    for folder in (root, *root.rglob("*")):
        os.chown(folder, 65534, 65534)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "-u", "VIRTUAL_ENV"]
    python = [*as_nobody, f"PYTHONPATH={root / 'lib'}", "/usr/bin/python3"]
    started = tree.copy.command(*python, "-m", "supervisor.supervisord", "-c", "supervisord.conf")
    assert started.returncode == 0, started.stdout
    eventually("all started", tree.all_started)
    status = tree.copy.command(*python, "-m", "supervisor.supervisorctl", "status")
    assert status.stdout.count("RUNNING") == len(PROCESSES), status.stdout
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in tree.copy.processes()}
    assert owners == {65534}
