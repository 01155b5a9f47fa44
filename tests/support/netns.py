"""
A computer of the test's own: two connected network namespaces, private users, private sudo rules.

    with Machine() as machine:
        machine.names["api.example"] = PROVIDER               # what its DNS server answers
        machine.run([script, "install"], check=True)          # as root, on the "host" side
        machine.run(["/usr/bin/env", "id"], user="antigravity-ls")
        with machine.on("inet"):                              # sockets made here live on the far side
            provider = socket.create_server(("203.0.113.10", 443))

```
  host side                                inet side, "the internet"
  the redirect, mitm, the LS      wan──lan     203.0.113.10, 2001:db8:2::10   the provider
  198.51.100.2, 2001:db8:1::2                  203.0.113.53                   the DNS server
```

Both sides share one private mount namespace, in which everything written below `PRIVATE` goes to memory: users, groups,
sudo rules, /var/lib, /run, and the tools in /usr/sbin (so a test may remove `iptables`). The rest of the file system,
/tmp included, is the real one. Numbers of users made inside come from a range of their own, so that "the processes of
this user" never means somebody else's.

Nothing of the real machine changes, and nothing needs to be put back: the namespaces have no names, live in one holder
process, and go with it. The holder kills, by id, whatever still runs inside, then leaves, when `close` is called and
just as well when the test process is killed, because both close its standard input.
"""

import contextlib
import ctypes
import functools
import ipaddress
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

HOST = ("198.51.100.2", "2001:db8:1::2")
GATEWAY = ("198.51.100.1", "2001:db8:1::1")
PROVIDER = ("203.0.113.10", "2001:db8:2::10")
NAME_SERVER = "203.0.113.53"
PRIVATE = ("/etc", "/var/lib", "/run", "/usr/sbin")

Side = Literal["host", "inet"]

_TOOLS = ("ip", "iptables", "mount", "nsenter", "setpriv", "sudo", "unshare", "useradd")
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def why_unavailable() -> str | None:
    """Return why no `Machine` can be made here, in words fit for a skipped test, or None."""
    if os.geteuid() != 0:
        return "needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if missing := [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]:
        return f"needs {', '.join(missing)}"
    overlay = "mount -t overlay -o lowerdir=/etc,upperdir=u,workdir=w overlay /etc"
    trial = subprocess.run(
        ["unshare", "--mount", "--net", "--propagation", "private", "--"]
        + ["sh", "-c", f"mount -t tmpfs tmpfs /var && cd /var && mkdir u w && {overlay}"],
        capture_output=True,
        text=True,
    )
    return None if trial.returncode == 0 else f"needs network namespaces and overlay mounts: {trial.stderr.strip()}"


class Machine:
    """
    The machine described above; a context manager.

    Attributes:
        names: What the DNS server answers: a host name (lower case, no final dot) to its addresses. May change at any
            time. A known name without an address of the family asked for gets an empty answer, an unknown one NXDOMAIN.
    """

    def __init__(self) -> None:
        self.names: dict[str, Sequence[str]] = {"provider.test": PROVIDER}
        self._scratch = tempfile.mkdtemp(prefix="wiremeter-machine-")
        self._started: list[subprocess.Popen[str]] = []
        self._holder = subprocess.Popen(
            [sys.executable, "-I", __file__, self._scratch], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self._pids: dict[Side, int] = _read_json_line(self._holder)
            self._name_server = _NameServer(self._socket_of_name_server(), self.names)
        except BaseException:
            self._stop_holder()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        user: str | None = None,
        side: Side = "host",
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] = "/",
        input: str = "",
        timeout_s: float = 60.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a program to its end and return its status and output.

        Args:
            argv: The program and its arguments, found in the machine's own PATH.
            user: Whom to run as, by the machine's own /etc/passwd; root by default.
            env: Added to a small clean environment (PATH, LANG).
            check: Raise AssertionError with the output unless the status is 0.
        """
        result = subprocess.run(
            self._entering(argv, user, side, cwd),
            env=_environment(env),
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{argv} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        user: str | None = None,
        side: Side = "host",
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] = "/",
        stdin: int | IO[str] = subprocess.PIPE,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] | None = None,
        start_new_session: bool = False,
    ) -> subprocess.Popen[str]:
        """
        Start a program and return once its process is inside; `close` ends what still runs.

        Its `pid` is the program's own, so signals reach it.
        """
        process = subprocess.Popen(
            self._entering(argv, user, side, cwd),
            env=_environment(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=start_new_session,
        )
        self._started.append(process)
        self._wait_until_inside(process, side)
        return process

    @contextlib.contextmanager
    def on(self, side: Side) -> Iterator[None]:
        """
        Let the calling thread make sockets that belong to that side for good; they work from anywhere afterwards.

        Only for making sockets: no process and no thread may be started inside.
        """
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self._pids[side]}/ns/net") as away:
            _set_network(away.fileno())
            try:
                yield
            finally:
                _set_network(home.fileno())

    def prefix(self, side: Side) -> list[str]:
        """Return the words to put before a command, so that it runs inside; whoever starts it so also ends it."""
        return self._entering([], None, side, "/")

    def path(self, inside: str | os.PathLike[str]) -> Path:
        """Return where the test process finds a file of the machine, such as its /etc/passwd."""
        return Path(f"/proc/{self._pids['host']}/root") / str(inside).lstrip("/")

    def add_user(self, name: str) -> int:
        """Make an ordinary user with a group of the same name, even an odd name, and return the number."""
        self.run(["useradd", "--badname", "--user-group", "--no-create-home", "--shell", "/bin/sh", name], check=True)
        return int(self.run(["id", "-u", name], check=True).stdout)

    def close(self) -> None:
        """End everything inside and the machine with it; harmless when called again."""
        self._name_server.close()
        self._stop_holder()
        for process in self._started:
            process.kill()  # nothing, unless it took longer to enter than we waited
            process.wait(timeout=_STOP_TIMEOUT_S)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._started.clear()

    def _entering(
        self, argv: Sequence[str | os.PathLike[str]], user: str | None, side: Side, cwd: str | os.PathLike[str]
    ) -> list[str]:
        """Wrap `argv` in programs that each replace themselves by the next, so that the process id stays the same."""
        namespaces = [f"--mount=/proc/{self._pids['host']}/ns/mnt", f"--net=/proc/{self._pids[side]}/ns/net"]
        return ["nsenter", *namespaces, "--", "env", "-C", str(cwd), *self._becoming(user), *map(str, argv)]

    def _wait_until_inside(self, process: "subprocess.Popen[str]", side: Side) -> None:
        """Wait, so that the holder finds the process even if the test is killed right after."""
        network, files = (os.readlink(f"/proc/{self._pids[side]}/ns/{kind}") for kind in ("net", "mnt"))
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/ns/net") == network:
                    if os.readlink(f"/proc/{process.pid}/ns/mnt") == files:
                        return
            time.sleep(0.001)

    def _becoming(self, user: str | None) -> list[str]:
        if user is None:
            return []
        for line in self.path("/etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == user:
                return ["setpriv", "--reuid", uid, "--regid", gid, "--init-groups", "--"]
        raise LookupError(f"the machine has no user {user}")

    def _socket_of_name_server(self) -> socket.socket:
        with self.on("inet"):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((NAME_SERVER, 53))
            return udp

    def _stop_holder(self) -> None:
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(timeout=_STOP_TIMEOUT_S)
        self._holder.stdout.close()
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._scratch)


class _NameServer:
    """Answer A and AAAA questions from a table, in a thread, until closed."""

    def __init__(self, udp: socket.socket, names: Mapping[str, Sequence[str]]) -> None:
        self._udp = udp
        self._names = names
        self._closing = threading.Event()
        udp.settimeout(0.1)
        self._thread = threading.Thread(target=self._serve, name="test name server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._udp.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                query, asker = self._udp.recvfrom(512)
                with contextlib.suppress(IndexError, UnicodeDecodeError, struct.error):
                    self._udp.sendto(dns_answer(query, self._names), asker)


def dns_answer(query: bytes, names: Mapping[str, Sequence[str]]) -> bytes:
    """Return the answer to one DNS query of one question (RFC 1035 §4.1); a malformed one raises."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    (kind,) = struct.unpack_from("!H", query, at + 1)
    question = query[12 : at + 5]
    known = names.get(".".join(labels).lower())
    packed = [ipaddress.ip_address(address).packed for address in known or ()]
    records = [data for data in packed if (kind, len(data)) in ((1, 4), (28, 16))]  # A, AAAA
    flags = 0x8580 if known is not None else 0x8583  # authoritative answer; 3 is "no such name"
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
    return head + question + b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 1, len(data)) + data for data in records)


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", **(extra or {})}


def _read_json_line(holder: "subprocess.Popen[str]") -> dict[Side, int]:
    """Wait for the holder's one line: the process that lives on each side."""
    assert holder.stdout is not None
    watchdog = threading.Timer(_START_TIMEOUT_S, holder.kill)
    watchdog.start()
    try:
        line = holder.stdout.readline()
    finally:
        watchdog.cancel()
        watchdog.join()
    if not line:
        raise RuntimeError("the test machine did not start; its holder's messages are on stderr")
    pids: dict[Side, int] = json.loads(line)
    return pids


def _set_network(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns to another network")


# What follows runs in the holder process.


def _hold(scratch: str) -> None:
    """Make the machine, say which processes live on its sides, and end it when standard input closes."""
    # A Ctrl-C at the terminal is meant for the test run, whose end closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outside = os.readlink("/proc/self/ns/net")
    _unshare(_CLONE_NEWNS | _CLONE_NEWNET)
    _command("mount --make-rprivate /")
    _make_file_system(Path(scratch))
    inet = _fork_into_new_network()
    _make_networks(inet)
    print(json.dumps({"host": os.getpid(), "inet": inet}), flush=True)
    try:
        sys.stdin.read()
    finally:
        _end_everything_inside(inet, outside)
        _command(f"umount -l {scratch}")
        with contextlib.suppress(OSError):
            os.rmdir(scratch)


def _make_file_system(scratch: Path) -> None:
    _command(f"mount -t tmpfs -o mode=0755 tmpfs {scratch}")
    for number, directory in enumerate(PRIVATE):
        upper, work = scratch / f"upper{number}", scratch / f"work{number}"
        upper.mkdir()
        work.mkdir()
        shutil.copystat(directory, upper)
        _command(f"mount -t overlay -o lowerdir={directory},upperdir={upper},workdir={work} overlay {directory}")
    # Replaced rather than written: resolv.conf is often a symbolic link to a file that belongs to somebody else.
    Path("/etc/resolv.conf").unlink(missing_ok=True)
    Path("/etc/resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:2\n")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()}\n::1 localhost\n")
    _choose_user_numbers(Path("/etc/login.defs"))


def _choose_user_numbers(login_defs: Path) -> None:
    first = 1_000_000 + os.getpid() % 1_000_000 * 100
    ranges = {"SYS_UID": (first, first + 49), "UID": (first + 50, first + 99)}
    ranges |= {"SYS_GID": ranges["SYS_UID"], "GID": ranges["UID"]}
    ours = {
        f"{name}_{end}": str(value)
        for name, pair in ranges.items()
        for end, value in zip(("MIN", "MAX"), pair, strict=True)
    }
    kept = [line for line in login_defs.read_text().splitlines() if line.split()[:1] not in [[key] for key in ours]]
    login_defs.write_text("\n".join([*kept, *(f"{key} {value}" for key, value in ours.items())]) + "\n")


def _fork_into_new_network() -> int:
    """Fork a process that does nothing but keep the inet side alive; return its id."""
    ready, say_ready = os.pipe()
    if (pid := os.fork()) == 0:
        # The test process's end shows only on the parent's standard input; this one is ended by the parent, or with it.
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        _unshare(_CLONE_NEWNET)
        os.write(say_ready, b".")
        while True:
            signal.pause()
    assert os.read(ready, 1) == b"."
    return pid


def _make_networks(inet: int) -> None:
    enter = f"nsenter --net=/proc/{inet}/ns/net --"
    for command in (
        f"ip link add wan type veth peer name lan netns {inet}",
        "ip link set lo up",
        f"ip address add {HOST[0]}/24 dev wan",
        f"ip address add {HOST[1]}/64 dev wan nodad",
        "ip link set wan up",
        f"{enter} ip link set lo up",
        f"{enter} ip address add {GATEWAY[0]}/24 dev lan",
        f"{enter} ip address add {GATEWAY[1]}/64 dev lan nodad",
        f"{enter} ip address add {PROVIDER[0]}/32 dev lo",
        f"{enter} ip address add {PROVIDER[1]}/128 dev lo nodad",
        f"{enter} ip address add {NAME_SERVER}/32 dev lo",
        f"{enter} ip link set lan up",
        f"ip route add default via {GATEWAY[0]}",
        f"ip -6 route add default via {GATEWAY[1]}",
    ):
        _command(command)


def _end_everything_inside(inet: int, outside: str) -> None:
    ours = {os.readlink(f"/proc/{pid}/ns/net") for pid in (os.getpid(), inet)}
    assert outside not in ours, "would end the processes of the real machine"
    spared = {os.getpid(), os.getppid(), inet}
    deadline = time.monotonic() + _STOP_TIMEOUT_S / 2
    while (inside := _processes_in(ours) - spared) and time.monotonic() < deadline:
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    os.kill(inet, signal.SIGKILL)
    os.waitpid(inet, 0)


def _processes_in(networks: set[str]) -> set[int]:
    """Return the living processes in these networks; a zombie has left its own and is its parent's to collect."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/net") in networks:
                    found.add(int(entry))
    return found


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _command(line: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    subprocess.run(line.split(), check=True, env={**os.environ, "PATH": path})


if __name__ == "__main__":
    _hold(sys.argv[1])
