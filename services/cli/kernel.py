"""What the kernel knows: who descends from whom (/proc, proc(5)), who listens on a port, who holds a lock."""

import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"  # tcp_states.h TCP_LISTEN, as /proc/net/tcp writes it


@dataclass(frozen=True, slots=True)
class Member:
    """A process that belongs to a tree; the start time tells it from a later one with the same pid."""

    pid: int
    started: int
    command: str


def members_below(root: int) -> list[Member]:
    """Return the process `root` and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        fields = _stat_fields(folder.name) if folder.name.isdigit() else None
        if fields:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        fields = _stat_fields(str(pid))
        if fields:
            found.append(Member(pid, int(fields[19]), _command_of(pid)))
    return found


def still_there(members: Iterable[Member]) -> list[Member]:
    """Return those that have not ended."""
    left = []
    for member in members:
        fields = _stat_fields(str(member.pid))
        if fields and fields[0] != "Z" and int(fields[19]) == member.started:
            left.append(member)
    return left


def _stat_fields(pid: str) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat from the third on (proc(5)): state, ppid, …; [19] is the start time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def holder_of(port: int) -> str | None:
    """Return who listens on a TCP port of this machine as `pid N (command)`, None if we may not see it."""
    inodes = {
        fields[9]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in _rows(table)
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (folder / "fd").iterdir():
                if os.readlink(descriptor) in wanted:
                    return f"pid {folder.name} ({_command_of(int(folder.name)) or 'unknown'})"
    return None


def holder_of_lock(path: Path) -> str | None:
    """Return who holds a lock of flock(2) on a file as `pid N (command)`, None if nobody whom we may see does."""
    inode = str(path.stat().st_ino)
    for fields in _rows("/proc/locks", header=False):  # proc(5): 1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
            return f"pid {fields[4]} ({_command_of(int(fields[4])) or 'unknown'})"
    return None


def _rows(table: str, *, header: bool = True) -> list[list[str]]:
    try:
        return [line.split() for line in Path(table).read_text().splitlines()[header:]]
    except OSError:
        return []


def is_taken(host: str, port: int) -> bool:
    """Return whether somebody listens on that address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of a predecessor that are still being forgotten are no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
