"""One program in our place at the terminal."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.foreground import End, NotStarted, located, run_in_foreground
from tests.support.eventually import eventually
from tests.support.source import PROJECT

# What `wiremeter run` does around a program, alone.
WRAPPER = """
import os, sys
from services.cli.foreground import NotStarted, end_like, located, run_in_foreground
try:
    end = run_in_foreground(located(sys.argv[1], os.environ.get("PATH")), sys.argv[1:], os.environ)
except NotStarted as error:
    print(error, file=sys.stderr)
    sys.exit(error.status)
print("ended", end.status, end.signal, file=sys.stderr)
sys.exit(end_like(end))
"""
WAITS_S = 20
# Says what it gets, until SIGTERM.
LISTENER = """
import os, signal, sys
def heard(number, frame):
    os.write(1, f"{signal.Signals(number).name} ".encode())
    if number == signal.SIGTERM:
        os._exit(5)
for name in "INT QUIT HUP USR1 USR2 CONT TERM".split():
    signal.signal(getattr(signal, "SIG" + name), heard)
os.write(1, b"ready ")
while True:
    signal.pause()
"""


def wrapped(*program: str) -> list[str]:
    return [sys.executable, "-c", WRAPPER, *program]


def run(*program: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        wrapped(*program), cwd=PROJECT, input=stdin, capture_output=True, text=True, timeout=WAITS_S, check=False
    )


@contextlib.contextmanager
def started(*program: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        wrapped(*program), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_the_programs(status: int) -> None:
    """Whatever it means."""
    assert run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_who_was_ended_by_a_signal_looks_like_it(number: signal.Signals) -> None:
    """A shell that waits for us does as if it had waited for the program: 128 + n, and no loop goes on after Ctrl-C."""
    done = run("sh", "-c", f"kill -{number.value} $$")
    assert done.returncode == -number
    assert done.stderr.split() == ["ended", str(128 + number), str(number.value)]


def test_a_program_that_is_not_there_is_127_and_one_that_is_none_126(tmp_path: Path) -> None:
    """As in a shell; nothing is run."""
    assert run("no-such-program-here").returncode == 127
    assert run(str(tmp_path / "none")).returncode == 127
    (tmp_path / "text").write_text("no program")
    assert run(str(tmp_path / "text")).returncode == 126
    with pytest.raises(NotStarted, match="command not found"):
        located("no-such-program-here", str(tmp_path))


def test_a_script_without_an_interpreter_is_the_shells(tmp_path: Path) -> None:
    """As POSIX has it for execvp."""
    script = tmp_path / "script"
    script.write_text('echo "$1" "$#"; exit 4\n')
    script.chmod(0o755)
    done = run(str(script), "a b", "c")
    assert (done.returncode, done.stdout) == (4, "a b 2\n")


def test_standard_streams_and_descriptors_are_its_own() -> None:
    """Input is not read by us, output is not looked at."""
    done = run("sh", "-c", "cat; echo out; echo err >&2", stdin="in\n")
    assert done.stdout == "in\nout\n"
    assert done.stderr.splitlines()[0] == "err"


def test_it_finds_its_signals_as_we_found_them() -> None:
    """Nothing blocked; ignored is what was ignored before, and what Python ignores is not."""
    states = run("cat", "/proc/self/status").stdout
    found = dict(line.split(":\t") for line in states.splitlines() if line.startswith(("SigBlk", "SigIgn")))
    assert int(found["SigBlk"], 16) == 0
    assert int(found["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    hung_up = subprocess.run(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *wrapped("cat", "/proc/self/status")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [ignored] = [line.split(":\t")[1] for line in hung_up.splitlines() if line.startswith("SigIgn")]
    assert int(ignored, 16) & (1 << (signal.SIGHUP - 1))


def test_a_signal_that_somebody_sends_to_us_is_passed_on() -> None:
    """All but those that only the kernel and the terminal send."""
    with started(sys.executable, "-u", "-c", LISTENER) as process:
        assert process.stdout is not None
        heard = process.stdout.read(6)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
            process.send_signal(number)
            heard += process.stdout.read(len(number.name) + 1)
        process.send_signal(signal.SIGTERM)
        heard += process.stdout.read()
        assert process.wait(WAITS_S) == 5
    assert heard == "ready SIGINT SIGQUIT SIGHUP SIGUSR1 SIGUSR2 SIGCONT SIGTERM "


def test_what_the_program_sends_to_its_group_does_not_come_back_to_it() -> None:
    """It would see its own signal twice."""
    program = LISTENER.replace("while True:", "os.kill(0, signal.SIGUSR1)\nos.write(1, b'sent ')\nwhile True:")
    with subprocess.Popen(
        wrapped(sys.executable, "-u", "-c", program), cwd=PROJECT, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        heard = process.stdout.read(len("ready SIGUSR1 sent "))
        process.send_signal(signal.SIGTERM)
        heard += process.stdout.read()
    assert heard.split().count("SIGUSR1") == 1


def test_a_stop_without_a_terminal_is_the_programs_alone() -> None:
    """Nobody would continue us."""
    with subprocess.Popen(
        wrapped("sh", "-c", "echo $$; read line; exit 3"),
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        pid = int(process.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        eventually("it has stopped", lambda: state_of(pid) == "T")
        os.kill(pid, signal.SIGCONT)
        process.stdin.close()
        assert process.wait(WAITS_S) == 3


# -- at a terminal -----------------------------------------------------------


class Terminal:
    """A shell with job control at a pseudo-terminal."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            cwd=PROJECT,
            env=os.environ | {"PS1": "$ "},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.pid = self._shell.pid
        self.seen = ""
        os.set_blocking(self.master, False)
        self.until("$ ")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str) -> str:
        """Return what came up to and with `text`."""

        def found() -> bool:
            with contextlib.suppress(BlockingIOError, OSError):
                self.seen += os.read(self.master, 65536).decode(errors="replace")
            return text in self.seen

        eventually(f"{text!r} on the terminal", found, timeout_s=WAITS_S)
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "wrapper.py").write_text(WRAPPER)
    found = Terminal()
    found.type(f"stty -echo; w() {{ PYTHONPATH=. {sys.executable} {tmp_path}/wrapper.py \"$@\"; }}; echo set-''up\n")
    found.until("set-up")
    yield found
    found.close()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ctrl_c_reaches_the_program_once_and_not_us(terminal: Terminal) -> None:
    """It may do with it what it likes; we are there until it has ended."""
    terminal.type("w sh -c 'trap \"echo caught\" INT; echo go; while :; do sleep 0.1; done'\n")
    terminal.until("go")
    for _ in range(2):
        terminal.type("\x03")
        assert terminal.until("caught").count("caught") == 1
    terminal.type("\x1c")  # Ctrl-\
    assert "ended 131 3" in terminal.until("ended 131 3")


def test_ctrl_c_ends_a_shells_loop(terminal: Terminal) -> None:
    """The shell sees that the program died of it."""
    terminal.type("for each in 1 2 3; do echo round-$each; w sleep 60; done; echo over-$?\n")
    terminal.until("round-1")
    eventually("it sleeps", lambda: b"sleep" in commands_below(terminal.pid))
    terminal.type("\x03")
    terminal.until("$ ")
    terminal.type("echo now-''here\n")
    assert "round-2" not in terminal.until("now-here")


def test_ctrl_z_stops_the_job_and_fg_continues_it(terminal: Terminal) -> None:
    """The shell gets its terminal back, and the program its input afterwards."""
    terminal.type("w sh -c 'echo go; read line; echo got-$line; exit 9'\n")
    terminal.until("go")
    terminal.type("\x1a")
    terminal.until("Stopped")
    terminal.type("echo between-''jobs\n")
    terminal.until("between-jobs")
    terminal.type("fg\n")
    terminal.type("hello\n")
    terminal.until("got-hello")
    terminal.until("ended 9 None")
    terminal.type("echo status-$?\n")
    terminal.until("status-9")


def test_a_program_that_stops_itself_stops_the_job(terminal: Terminal) -> None:
    """Agents do so on their own Ctrl-Z, with SIGSTOP."""
    terminal.type("w sh -c 'echo go; kill -STOP $$; echo back; exit 2'\n")
    terminal.until("Stopped")
    terminal.type("fg\n")
    terminal.until("back")
    terminal.until("ended 2 None")


def test_the_terminal_is_a_terminal_to_the_program(terminal: Terminal) -> None:
    """In the foreground, with its size."""
    terminal.type("stty rows 33 cols 77; w sh -c 'test -t 0 && test -t 1 && test -t 2 && stty size'\n")
    terminal.until("33 77")
    terminal.until("ended 0 None")


def commands_below(pid: int) -> list[bytes]:
    """Return the names of the programs of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and os.getsid(int(folder.name)) == pid:
                found.append((folder / "comm").read_bytes().strip())
    return found


def test_an_end_of_which_the_signal_was_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may have taken it."""
    monkeypatch.setattr(signal, "sigtimedwait", lambda *_: None)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        assert run_in_foreground("/bin/sh", ["sh", "-c", "exit 7"], os.environ) == End(7, None)
    finally:
        signal.signal(signal.SIGCHLD, before)
