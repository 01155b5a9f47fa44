"""
Where the language server lives: from what was found out about the machine to user, way, environment and command line.

Input: what probes said. Output: decisions and argument lists. Nothing is started or looked at here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from services.events.lifecycle import Missing

SUDO = "/usr/bin/sudo"
ENV = "/usr/bin/env"
# Sudo's own default for the LS's user; what a login would give.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# From SIGTERM to SIGKILL: what the vendor's own launcher gives its language server.
STOP_GRACE_S = 5.0
GUARD_SAYS = "wiremeter-guard: "


class Way(StrEnum):
    """How the traffic reaches mitm."""

    REDIRECT = "redirect"
    CONNECT = "connect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A UNIX user: `sudo` tells whether it is another one than ours."""

    user: str
    uid: int
    sudo: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lodging:
    """
    Where the language server lives.

    Attributes:
        python: Runs the guard, as that user.
        made_home: The home is a new one, to be removed at the end.
        missing: What is not as it should be, for `/health`.
    """

    account: Account
    way: Way
    python: str
    home: Path
    workspace: Path
    made_home: bool = False
    missing: tuple[Missing, ...] = field(default=())


def sudo_problem(user: str, status: int, stderr: str) -> str | None:
    """
    Say what kept `sudo -n -u user -- /usr/bin/env true` from working, None when it worked.

    sudo ends with 1 for its own refusals, with the command's status otherwise; env ends with 127 when it finds no
    program.
    """
    if status == 0:
        return None
    # A host name without an address makes sudo say so on every call; that is no failure.
    lines = [line for line in stderr.splitlines() if line and "unable to resolve host" not in line]
    said = lines[0].removeprefix("sudo: ") if lines else f"status {status}"
    if "unknown user" in said:
        return f"the user {user} does not exist"
    if "password is required" in said or "a password" in said or "not allowed" in said:
        return f"sudo does not let this user run programs as {user} ({said})"
    return f"sudo -u {user} failed ({said})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryAnswer:
    """
    What became of one canary connection.

    Attributes:
        arrived: It was seen at mitm's port.
        error: Why there was no connection.
        udp_refused: A datagram to port 443 was refused.
    """

    arrived: bool
    error: str | None
    udp_refused: bool


def coverage_problem(answers: Mapping[str, CanaryAnswer], has_ipv6: bool) -> str | None:
    """Say which traffic would go past the meter; None when all of it is caught."""
    open_ways = []
    for host, name in (("127.0.0.1", "IPv4"), ("::1", "IPv6")):
        if name == "IPv6" and not has_ipv6:
            continue  # no address, no traffic
        answer = answers.get(host)
        if answer is None or not answer.arrived:
            why = answer.error if answer is not None and answer.error else "the connection went elsewhere"
            open_ways.append(f"{name} port 443 is not redirected to mitm ({why})")
        elif not answer.udp_refused:
            open_ways.append(f"{name} UDP port 443 is open, QUIC would go past the meter")
    return "; ".join(open_ways) or None


def holds_connection(table: str, local_port: int, remote_port: int) -> bool:
    """
    Find a connection in the text of /proc/net/tcp or tcp6 (proc(5)).

    The canary's own port as the *remote* one beside mitm's as the local one: nothing but the redirect brings these two
    together, not even another server that listens on port 443.
    """
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 2:
            local, remote = words[1].rpartition(":")[2], words[2].rpartition(":")[2]
            if (int(local, 16), int(remote, 16)) == (local_port, remote_port):
                return True
    return False


def account_variables(lodging: Lodging, path: str) -> dict[str, str]:
    """Return what a login would set."""
    return {
        "HOME": str(lodging.home),
        "USER": lodging.account.user,
        "LOGNAME": lodging.account.user,
        "PATH": path,
        "LANG": "C.UTF-8",
    }


# What must not reach the language server from the environment of Wiremeter itself: our settings, and another's trust or
# proxies, which would take its traffic past the meter.
_NOT_INHERITED = ("WIREMETER_", "SSL_CERT_", "SUPERVISOR_", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy")


def inherited_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a language server that runs as the current user keeps of that user's environment."""
    return {name: value for name, value in environ.items() if not name.startswith(_NOT_INHERITED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute; `environ` is the whole environment of the first program."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]


def as_account(account: Account, environment: Mapping[str, str], program: Sequence[str]) -> Command:
    """
    Write the command that runs `program` as that user.

    sudo keeps none of our environment; env after it sets the variables, and is the only program that the sudo rule
    allows. No secret may be among them: every local user can read a command line.
    """
    if not account.sudo:
        return Command(argv=tuple(program), environ=environment)
    assigned = (f"{name}={value}" for name, value in environment.items())
    return Command(
        argv=(SUDO, "-n", "-u", account.user, "--", ENV, *assigned, *program),
        environ={"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"},
    )


def alone(python: str) -> tuple[str, ...]:
    """
    Return how a Python starts one of the scripts that need the standard library only.

    -I: no environment, no current directory. -S: no site-packages, whose start-up files take most of such a start.
    """
    return (python, "-IS")


def guarded(lodging: Lodging, guard: Path, program: Sequence[str], keeps_stdin: bool) -> tuple[str, ...]:
    """Put the guard in front of a program."""
    relay = "relay" if keeps_stdin else "null"
    return (*alone(lodging.python), str(guard), relay, f"{STOP_GRACE_S:g}", str(lodging.workspace), *program)


def end_of(status: int, started: bool, first_line: str) -> str:
    """Say in words how the process ended; `started` tells whether the guard had started the program."""
    if not started:
        reason = first_line.removeprefix(GUARD_SAYS).removeprefix("sudo: ").strip()
        return f"the program was not started: {reason}" if reason else f"the program was not started (status {status})"
    if status < 0:
        return f"sudo or the guard was killed by signal {-status}"
    if status > 128:
        return f"it was ended by signal {status - 128}"
    return f"it ended with status {status}"
