"""
Starts the language server, as its own UNIX user, and makes sure that it never outlives its runner.

    guard.py (relay | null) GRACE_S DIRECTORY program [argument ...]

Reads      standard input: with `relay` its bytes go to the program's own, with `null` they mean nothing. Its end means
           that the runner has gone or wants an end: SIGTERM for the program's process group, SIGKILL after GRACE_S.
Inherits   standard output and error go through untouched, to the program.
Works in   DIRECTORY.
Says       one line on standard error, as soon as the program has started (which may have written lines by then):
           `wiremeter-guard: pid <n>`, or `wiremeter-guard: cannot start: <reason>` with status 127 (not found) or 126.
Ends       with the program's status, 128 + n where a signal n ended it, as a shell says it.

Who can be killed without notice, and what ends the program then: the runner (end of input); sudo (end of input, and
SIGTERM by PR_SET_PDEATHSIG); the guard itself (the program's own PR_SET_PDEATHSIG). Killing sudo or its whole group
from outside is not enough: an ordinary user's signals do not reach another user's processes.

Stand-alone: the standard library only, Python >= 3.7, because it runs with the system's interpreter, as a user who
cannot enter the directory that holds the rest of Wiremeter.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# What the program has not read yet; beyond it the runner is made to wait.
_BUFFER_BYTES_MAX = 64 * 1024
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int, parent: int) -> None:
    """Ask the kernel for a signal when the parent dies; act at once when it has died already."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


class Guard:
    """One program, its input and its end."""

    def __init__(self, program: list[str], directory: str, relays: bool, grace_s: float) -> None:
        self._relays = relays
        self._grace_s = grace_s
        self._asked_to_stop = False
        self._kill_at: float | None = None
        self._buffer = b""
        self._input_open = True
        self._poll = select.poll()
        self._wakeup = self._watch_signals()
        self._child = self._start(program, directory)
        self._feed = self._child.stdin.fileno() if self._child.stdin is not None else -1
        if relays:
            os.set_blocking(self._feed, False)

    def _watch_signals(self) -> int:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_stop_signal)
        # A handler is needed for the signal to reach the wake-up descriptor at all.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._poll.register(reading, select.POLLIN)
        return reading

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._asked_to_stop = True

    def _start(self, program: list[str], directory: str) -> subprocess.Popen[bytes]:
        guard = os.getpid()

        def tie() -> None:
            # Signals that the guard was started with blocked or ignored are not the program's business.
            for number in (*_STOP_SIGNALS, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(signal.SIGKILL, guard)

        # A group of its own: helpers that the program starts end with it. preexec_fn is safe here, there are no
        # threads.
        child = subprocess.Popen(
            program,
            cwd=directory,
            stdin=subprocess.PIPE if self._relays else subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=tie,
        )
        say(f"pid {child.pid}")
        return child

    def run(self) -> int:
        """Relay and wait; return the program's status."""
        self._poll.register(0, self._input_events())
        while True:
            self._step()
            status = self._reap()
            if status is not None:
                return status

    def _step(self) -> None:
        timeout_ms = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic()) * 1000
        for descriptor, events in self._poll.poll(timeout_ms):
            if descriptor == self._wakeup:
                self._drain_wakeup()
            elif descriptor == 0:
                self._on_input(events)
            elif descriptor == self._feed:
                self._write()
        if self._asked_to_stop:
            self._begin_stop()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._signal_group(signal.SIGKILL)
            self._kill_at = time.monotonic() + self._grace_s

    def _drain_wakeup(self) -> None:
        try:
            while os.read(self._wakeup, 4096):
                pass
        except BlockingIOError:
            pass

    def _input_events(self) -> int:
        # Hang-ups are reported even when nothing is asked for: a program that does not read cannot hide the end.
        wanted = select.POLLIN if len(self._buffer) < _BUFFER_BYTES_MAX else 0
        return wanted | select.POLLRDHUP

    def _on_input(self, events: int) -> None:
        data = b""
        if events & select.POLLIN:
            data = os.read(0, _BUFFER_BYTES_MAX)
        # Without POLLIN there is no space in the buffer, or nothing more to come: either way the writer has gone.
        if not data:
            self._end_input()
        elif self._relays and self._feed >= 0:
            self._buffer += data
            self._write()

    def _end_input(self) -> None:
        if self._input_open:
            self._input_open = False
            self._poll.unregister(0)
        self._close_feed()
        self._asked_to_stop = True

    def _write(self) -> None:
        try:
            self._buffer = self._buffer[os.write(self._feed, self._buffer) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._close_feed()  # it has closed its input; that is its own affair
        if self._feed >= 0:
            if self._buffer:
                self._poll.register(self._feed, select.POLLOUT)
            else:
                self._forget(self._feed)
        if self._input_open:
            self._poll.modify(0, self._input_events())

    def _forget(self, descriptor: int) -> None:
        try:
            self._poll.unregister(descriptor)
        except KeyError:
            pass

    def _close_feed(self) -> None:
        if self._feed < 0 or self._child.stdin is None:
            return
        self._forget(self._feed)
        self._feed = -1
        self._buffer = b""
        try:
            self._child.stdin.close()
        except OSError:
            pass

    def _begin_stop(self) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace_s
            self._close_feed()
            self._signal_group(signal.SIGTERM)

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            pass

    def _reap(self) -> int | None:
        """Return the status once the program has ended; whoever is left in its group is ended first."""
        # WNOWAIT: while the program is not reaped its group's number cannot be given to anyone else.
        if os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._signal_group(signal.SIGKILL)
        code = self._child.wait()
        return code if code >= 0 else 128 - code


def say(text: str) -> None:
    """Write one line for the runner."""
    try:
        os.write(2, f"wiremeter-guard: {text}\n".encode())
    except OSError:
        pass


def main(arguments: list[str]) -> int:
    """Guard one program."""
    if len(arguments) < 4 or arguments[0] not in ("relay", "null"):
        say("usage: guard.py (relay | null) GRACE_S DIRECTORY program [argument ...]")
        return 64
    die_with_parent(signal.SIGTERM, os.getppid())
    try:
        return Guard(arguments[3:], arguments[2], arguments[0] == "relay", float(arguments[1])).run()
    except OSError as error:
        say(f"cannot start: {error.filename or arguments[3]}: {error.strerror}")
        return 127 if error.errno == errno.ENOENT else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
