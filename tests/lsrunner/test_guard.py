"""The guard: the language server never outlives its runner, whoever is killed."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import PROJECT
from tests.support.eventually import eventually

GUARD = PROJECT / "services" / "lsrunner" / "guard.py"
# Another user that every Debian has; sudo takes root there without a password.
OTHER_USER = "games"
IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
)
SLEEPS = "import time; print('on', flush=True); time.sleep(60)"


class Guarded:
    """A program behind the real guard; the pipes are ours, as they are the runner's."""

    def __init__(self, mode: str, *program: str, grace_s: float = 5.0, sudo: Path | None = None) -> None:
        guard = str(sudo or GUARD)
        prefix = ("sudo", "-n", "-u", OTHER_USER, "--", "/usr/bin/env") if sudo else ()
        python = "/usr/bin/python3" if sudo else sys.executable
        self.process = subprocess.Popen(
            [*prefix, python, "-IS", guard, mode, str(grace_s), "/", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
        )
        self.python = python

    @property
    def pid(self) -> int:
        """Of the program, from the guard's first line."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline().decode()
        assert line.startswith("wiremeter-guard: pid "), line
        return int(line.split()[-1])

    def read_line(self) -> bytes:
        """Read one line of the program's output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end_input(self) -> None:
        """What the kernel does when the runner is killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextlib.contextmanager
def guarded(mode: str, *program: str, grace_s: float = 5.0, sudo: Path | None = None) -> Iterator[Guarded]:
    """Guard a program; make sure that nothing is left when a test fails."""
    subject = Guarded(mode, *program, grace_s=grace_s, sudo=sudo)
    try:
        yield subject
    finally:
        for pipe in (subject.process.stdin, subject.process.stdout, subject.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        subject.process.wait(20)


def lives(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def has_gone(pid: int) -> None:
    """Wait until it does not."""
    eventually(f"the end of process {pid}", lambda: not lives(pid))


def test_what_the_program_ends_with_the_guard_ends_with():
    """An exit status passes through."""
    with guarded("null", sys.executable, "-c", "raise SystemExit(7)") as subject:
        assert subject.process.wait(10) == 7


def test_a_program_that_a_signal_ended_is_told_as_a_shell_would():
    """128 and the signal's number."""
    with guarded("null", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)") as subject:
        assert subject.process.wait(10) == 128 + signal.SIGKILL


def test_a_program_that_does_not_exist_is_named():
    """127, and one line that says which."""
    with guarded("null", "/does/not/exist") as subject:
        assert subject.process.wait(10) == 127
        assert subject.process.stderr is not None
        assert (
            subject.process.stderr.read()
            == b"wiremeter-guard: cannot start: /does/not/exist: No such file or directory\n"
        )


def test_a_program_that_may_not_be_executed_is_another_failure():
    """126."""
    with guarded("null", "/etc/passwd") as subject:
        assert subject.process.wait(10) == 126


def test_without_relay_the_program_reads_nothing():
    """Its input is empty at once, although the guard's stays open."""
    with guarded("null", sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))") as subject:
        assert subject.process.wait(10) == 0
        assert subject.read_line() == b"''\n"


def test_with_relay_every_byte_arrives():
    """A megabyte of all values, to a program that reads slowly and at the end says how much it was."""
    count = (
        "import sys, zlib\ndata = sys.stdin.buffer.read(1 << 20)\nprint(zlib.crc32(data), flush=True)\nsys.stdin.read()"
    )
    data = bytes(range(256)) * 4096
    with guarded("relay", sys.executable, "-c", count) as subject:
        assert subject.process.stdin is not None
        subject.process.stdin.write(data)
        subject.process.stdin.flush()

        assert int(subject.read_line()) == zlib.crc32(data)


def test_the_end_of_input_ends_the_program():
    """SIGTERM first: the program can put its affairs in order."""
    tidy = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(3))\nprint('on', flush=True)\ntime.sleep(60)"
    )
    with guarded("null", sys.executable, "-c", tidy) as subject:
        subject.read_line()
        subject.end_input()
        assert subject.process.wait(10) == 3


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace():
    """SIGKILL."""
    with guarded("null", sys.executable, "-c", IGNORES_SIGTERM, grace_s=0.3) as subject:
        subject.read_line()
        subject.end_input()
        assert subject.process.wait(10) == 128 + signal.SIGKILL


def test_the_end_is_seen_although_the_program_never_reads():
    """A full pipe hides nothing: the writer's hang-up is reported apart from its bytes."""
    with guarded("relay", sys.executable, "-c", IGNORES_SIGTERM, grace_s=0.3) as subject:
        subject.read_line()
        assert subject.process.stdin is not None
        os.set_blocking(subject.process.stdin.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(subject.process.stdin.fileno(), b"x" * 65536)
        subject.end_input()
        assert subject.process.wait(10) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_guard_reaches_the_program(number):
    """As SIGTERM, whichever it was."""
    with guarded("null", sys.executable, "-c", SLEEPS) as subject:
        pid = subject.pid
        subject.read_line()
        subject.process.send_signal(number)
        assert subject.process.wait(10) == 128 + signal.SIGTERM
        has_gone(pid)


def test_helpers_of_the_program_end_with_it():
    """Its whole process group, also when the program itself just ends."""
    forks = "import os, sys, time\npid = os.fork()\nif pid:\n    print(pid, flush=True)\nelse:\n    time.sleep(60)"
    with guarded("null", sys.executable, "-c", forks) as subject:
        helper = int(subject.read_line())
        assert subject.process.wait(10) == 0
        has_gone(helper)


def test_killing_the_guard_kills_the_program():
    """PR_SET_PDEATHSIG of the program."""
    with guarded("null", sys.executable, "-c", IGNORES_SIGTERM) as subject:
        pid = subject.pid
        subject.read_line()
        subject.process.kill()
        has_gone(pid)


def test_killing_the_runner_ends_guard_and_program():
    """The kernel closes the pipe, and that is enough."""
    runner = (
        "import subprocess, sys\n"
        "p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "print(p.pid, p.stderr.readline().decode().split()[-1], flush=True)\n"
        "p.wait()"
    )
    command = [sys.executable, "-IS", str(GUARD), "relay", "0.3", "/", sys.executable, "-c", IGNORES_SIGTERM]
    with subprocess.Popen([sys.executable, "-c", runner, *command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        guard, program = map(int, process.stdout.readline().split())
        process.kill()
        process.wait(10)
        has_gone(program)
        has_gone(guard)


@pytest.fixture
def readable_guard() -> Iterator[Path]:
    """A copy of the guard that another user can read."""
    if os.geteuid() != 0 or shutil.which("sudo") is None:
        pytest.skip("needs root and sudo to become another user")
    try:
        pwd.getpwnam(OTHER_USER)
    except KeyError:
        pytest.skip(f"there is no user {OTHER_USER}")
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copy(GUARD, folder))


@pytest.mark.root
def test_killing_sudo_ends_the_program(readable_guard):
    """SIGKILL cannot be passed on by sudo; the guard learns of it from the kernel."""
    with guarded("null", "/usr/bin/python3", "-c", IGNORES_SIGTERM, grace_s=0.3, sudo=readable_guard) as subject:
        pid = subject.pid
        subject.read_line()
        assert os.stat(f"/proc/{pid}").st_uid == pwd.getpwnam(OTHER_USER).pw_uid
        subject.process.kill()
        has_gone(pid)


@pytest.mark.root
def test_the_end_of_input_passes_through_sudo(readable_guard):
    """The way in which a killed runner is noticed when the program is another user's."""
    with guarded("relay", "/usr/bin/python3", "-c", SLEEPS, sudo=readable_guard) as subject:
        pid = subject.pid
        subject.read_line()
        subject.end_input()
        has_gone(pid)


@pytest.mark.root
def test_terminating_sudo_ends_the_program(readable_guard):
    """sudo passes SIGTERM on."""
    with guarded("null", "/usr/bin/python3", "-c", SLEEPS, sudo=readable_guard) as subject:
        pid = subject.pid
        subject.read_line()
        subject.process.terminate()
        has_gone(pid)
