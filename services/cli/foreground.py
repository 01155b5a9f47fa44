"""
One program in our place at the terminal: its input, output, process group and signals are as if we were not there.

The program stays in our process group, so what the terminal sends (Ctrl-C, Ctrl-\\, Ctrl-Z, a new size) reaches it
without us. What somebody sends to us alone is passed on to it. When it stops, we stop, so that the shell sees a job
that has stopped; when we are continued, it is.
"""

import errno
import os
import resource
import shutil
import signal
from collections.abc import Mapping, Sequence

from services.cli.kernel import members_below
from services.cli.summary import End

_PASSED_ON = frozenset(
    {
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGTSTP,
        signal.SIGCONT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
_AWAITED = _PASSED_ON | {signal.SIGCHLD}
# A thread that somebody else has started may take SIGCHLD away from us between two waits.
_LOOK_EVERY_S = 1.0
# Python ignores these two; the program shall find them as we did.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# As shells, env and timeout have it.
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class NotStarted(Exception):
    """The program cannot be started; `status` is what a shell would end with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def located(program: str, path: str | None) -> str:
    """
    Return where a program is.

    Raises:
        NotStarted: Nowhere.
    """
    if "/" in program:
        return program
    found = shutil.which(program, path=path)
    if found is None:
        raise NotStarted(f"{program}: command not found", NOT_FOUND)
    return found


def run_in_foreground(path: str, arguments: Sequence[str], environ: Mapping[str, str]) -> End:
    """
    Run the program at `path` to its end; `arguments` begin with its name.

    While it runs our own signals wait; afterwards they have been dealt with.

    Raises:
        NotStarted: It cannot be executed.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by whoever started us, it would hide the end
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        pid = _spawn(path, arguments, environ, before)
        while True:
            news = signal.sigtimedwait(_AWAITED, _LOOK_EVERY_S)
            if news is None or news.si_signo == signal.SIGCHLD:
                end = _look_at(pid)
                if end is not None:
                    return end
            elif _is_ours_alone(news, pid):
                os.kill(pid, news.si_signo)  # not reaped yet, so nobody else has its number
    finally:
        while signal.sigtimedwait(_AWAITED, 0) is not None:
            pass  # it was for the program, which has gone
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(path: str, arguments: Sequence[str], environ: Mapping[str, str], mask: set[int | signal.Signals]) -> int:
    signals = {"setsigmask": mask, "setsigdef": _IGNORED_BY_PYTHON}
    try:
        try:
            return os.posix_spawn(path, arguments, environ, **signals)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line that names its interpreter is the shell's, POSIX says of execvp.
            return os.posix_spawn("/bin/sh", ["/bin/sh", path, *arguments[1:]], environ, **signals)  # type: ignore[arg-type]
    except OSError as error:
        status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise NotStarted(f"{path}: {error.strerror}", status) from error


def _look_at(pid: int) -> End | None:
    """Return how the program ended; None while it lives. If it has stopped, so do we, until somebody continues us."""
    found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if found == 0:
        return None
    if os.WIFSTOPPED(status):
        if _has_terminal():
            os.kill(os.getpid(), signal.SIGSTOP)
        return None
    if os.WIFSIGNALED(status):
        return End(128 + os.WTERMSIG(status), os.WTERMSIG(status))
    return End(os.WEXITSTATUS(status))


def _has_terminal() -> bool:
    """Without job control a stop is somebody's experiment with the program, and nobody would continue us."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _is_ours_alone(news: signal.struct_siginfo, pid: int) -> bool:
    """What the kernel sent (SI_KERNEL, above 0) or the program itself (to its group) has reached the program too."""
    return news.si_code <= 0 and all(member.pid != news.si_pid for member in members_below(pid))


def end_like(end: End) -> int:
    """End by the signal that ended the program, so that our caller sees the same; else return the exit status."""
    if end.signal is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it has left its own
        if end.signal != signal.SIGKILL:
            signal.signal(end.signal, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {end.signal})
        os.kill(os.getpid(), end.signal)
    return end.status
