"""
Who made a connection: user, process and program of the peer, asked of the kernel.

The user comes from `NETLINK_SOCK_DIAG` (sock_diag(7)) by the connection's two addresses, as the client's own socket has
them: for a redirected connection the far one is the original destination. Where that is missing, `/proc/net/tcp` and
`tcp6` say the same, slower. The process is whoever holds the socket's inode in `/proc/<pid>/fd`, which only root and
the same user may look at; the search is bounded and begins with the processes that were found before. Those are known
by descriptors of their directories: what is read through one is never a later process's of the same number. What a
process may change without our noticing is read for each connection. A process that `wiremeter run` started says so in
its environment, of which nothing else is kept.
"""

import ipaddress
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from socket import AF_INET, AF_INET6, IPPROTO_TCP, inet_pton
from typing import NamedTuple

from services.events.exchange import Client
from services.runtime.environment import NAME_VARIABLE, ClientName, client_name

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NLM_F_REQUEST = 1
_NO_COOKIE = b"\xff" * 8
_ALL_STATES = 0xFFF
_REQUEST = struct.Struct("=8sI12s")  # the sequence, in the middle of what is always the same
# struct inet_diag_sockid: ports, addresses padded with zeros, interface, cookie
_ADDRESSES = struct.Struct("!HH16s16s4x8s")
_REQUEST_BYTES = _REQUEST.size + _ADDRESSES.size
_REQUEST_START = struct.pack("=IHH", _REQUEST_BYTES, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST)  # struct nlmsghdr, begun
# Its end; struct inet_diag_req_v2, before the addresses.
_REQUEST_END = {
    family: struct.pack("=IBBBxI", 0, family, IPPROTO_TCP, 0, _ALL_STATES) for family in (AF_INET, AF_INET6)
}
# struct nlmsghdr: type, sequence; struct inet_diag_msg behind the addresses: expires, queues, uid, inode
_ANSWER = struct.Struct(f"=4xH2xI4x4x{_ADDRESSES.size}x12xII")
_ANSWER_BYTES_MAX = 8192
_ANSWER_WAIT = struct.pack("@ll", 0, 500_000)  # struct timeval: half a second
# Processes remembered as likely holders of the next connection, per process of ours: a descriptor for each.
_REMEMBERED_MAX = 64
# Descriptors looked at in one search: a machine with very many processes must not stop the traffic.
_SEARCH_LINKS_MAX = 20_000
# Descriptors looked at before a process's others, because its connections had them lately.
_LATELY_MAX = 8
# One that is passed over as often while others are used again has become something else.
_PASSED_OVER_MAX = 8
# The kernel's own limit for arguments and environment together, execve(2), on machines with the usual stack limit.
_ENVIRONMENT_BYTES_MAX = 2 * 1024 * 1024
_NAME_VARIABLE = f"{NAME_VARIABLE}=".encode()

Address = tuple[str, int]


class Owner(NamedTuple):
    """A socket's owner by the kernel's word."""

    uid: int
    inode: int


class PeerDirectory:
    """Asks the kernel; keeps one netlink socket open, and the directories of the processes that it remembers."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._remembered: OrderedDict[int, _Process] = OrderedDict()
        self._sequence = 0
        self._answer = bytearray(_ANSWER_BYTES_MAX)
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
            # Not settimeout: with that Python asks the kernel twice.
            self._netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_WAIT)
        except OSError:
            pass  # /proc/net/tcp will do

    def close(self) -> None:
        """Close the netlink socket and forget all processes."""
        if self._netlink is not None:
            self._netlink.close()
        for pid in tuple(self._remembered):
            self._forget(pid)

    def owner_of(self, near: Address, far: Address) -> Owner | None:
        """Return who owns the TCP socket with the addresses `near` (its own) and `far`; None if nobody can be found."""
        if self._netlink is not None:
            try:
                return self._ask(self._netlink, near, far)
            except OSError:
                pass
        return _read_proc_net(near, far)

    def client_of(self, owner: Owner, name: ClientName | None = None) -> Client:
        """
        Describe the process that holds a socket, as far as we may see it.

        Args:
            owner: Whose socket it is.
            name: What the client has said that it is; otherwise it is called what it, or an ancestor, was started with
                by `wiremeter run`.
        """
        process = self._holder_of(owner)
        if process is None:
            return _client(owner.uid, None, None, None, name)
        program = process.link(b"exe")
        if name is None and program is not None:
            name = process.name_as(program)
        return _client(owner.uid, process.pid, program, process.link(b"cwd"), name)

    def _ask(self, netlink: socket.socket, near: Address, far: Address) -> Owner | None:
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        family = AF_INET6 if ":" in near[0] else AF_INET
        netlink.send(
            _REQUEST.pack(_REQUEST_START, sequence, _REQUEST_END[family])
            + _ADDRESSES.pack(near[1], far[1], inet_pton(family, near[0]), inet_pton(family, far[0]), _NO_COOKIE)
        )
        answer = self._answer
        while True:
            netlink.recv_into(answer)
            # One that says that there is no such socket is shorter: then the rest is of another, and not looked at.
            kind, answered, uid, inode = _ANSWER.unpack_from(answer)
            if answered == sequence:  # else it came too late last time
                return Owner(uid, inode) if kind == _SOCK_DIAG_BY_FAMILY else None  # NLMSG_ERROR: no such socket

    # -- the process -------------------------------------------------------

    def _holder_of(self, owner: Owner) -> "_Process | None":
        uid, inode = owner
        wanted = b"socket:[%d]" % inode
        remembered = self._remembered
        found = None
        gone: list[int] = []
        for process in reversed(remembered.values()):
            try:
                if process.uid == uid and process.holds_again(wanted):
                    found = process
                    break
            except ProcessLookupError:
                gone.append(process.pid)
        for pid in gone:
            self._forget(pid)
        if found is None:
            return self._search(uid, wanted)
        remembered.move_to_end(found.pid)
        return found

    def _search(self, uid: int, wanted: bytes) -> "_Process | None":
        seen = 0
        for pid in self._likely_pids(uid):
            try:
                numbers = os.listdir(b"/proc/%d/fd" % pid)
            except OSError:
                continue
            for number in reversed(numbers):  # a new socket has a high number
                seen += 1
                if _link(b"/proc/%d/fd/%b" % (pid, number)) == wanted:
                    return self._remember(pid, number, wanted)
            if seen > _SEARCH_LINKS_MAX:
                return None
        return None

    def _likely_pids(self, uid: int) -> Iterator[int]:
        remembered = tuple(reversed(self._remembered))
        yield from (pid for pid in remembered if _uid_of(pid) == uid)
        others = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        # New processes have high numbers, and new connections are mostly theirs.
        yield from (pid for pid in sorted(others, reverse=True) if pid not in remembered and _uid_of(pid) == uid)

    def _remember(self, pid: int, number: bytes, wanted: bytes) -> "_Process | None":
        """Open the directory of a process that was just seen with a socket; None when it has it no longer."""
        process = self._remembered.get(pid)
        try:
            if process is None or process.has_gone():
                self._forget(pid)
                process = self._remembered[pid] = _Process(pid)
                if len(self._remembered) > _REMEMBERED_MAX:
                    self._forget(next(iter(self._remembered)))
            else:
                process.look_at_user()
            if not process.holds(number, wanted):
                return None
        except OSError:
            return None
        process.note(number)
        self._remembered.move_to_end(pid)
        return process

    def _forget(self, pid: int) -> None:
        process = self._remembered.pop(pid, None)
        if process is not None:
            process.close()


class _Process:
    """
    A process, by a descriptor of its directory in /proc.

    Once it has gone, whatever has its number then, reading through that raises ProcessLookupError.

    Attributes:
        uid: Its user when it was last found by a search. One that became another user's is searched for again: its new
            connections are that user's.
    """

    __slots__ = ("_directory", "_lately", "_name", "_named_as", "pid", "uid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._directory = os.open(b"/proc/%d" % pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # Descriptors of connections, and how often each was passed over since. The latest is last: a client that keeps
        # several connections ends the one next that it began first.
        self._lately: dict[bytes, int] = {}
        self._name: ClientName | None = None
        self._named_as: bytes | None = None
        self.look_at_user()

    def close(self) -> None:
        os.close(self._directory)

    def look_at_user(self) -> None:
        """See whose process it is."""
        self.uid = os.fstat(self._directory).st_uid

    def has_gone(self) -> bool:
        try:
            os.readlink(b"cwd", dir_fd=self._directory)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False

    def holds(self, number: bytes, wanted: bytes) -> bool:
        """Say whether a descriptor is the wanted socket."""
        try:
            return os.readlink(b"fd/" + number, dir_fd=self._directory) == wanted
        except ProcessLookupError:
            raise
        except OSError:
            return False

    def holds_again(self, wanted: bytes) -> bool:
        """Say whether a descriptor that was a connection lately is the wanted socket: numbers are used again."""
        lately = self._lately
        passed_over: list[bytes] = []
        for number in lately:
            if self.holds(number, wanted):
                break
            passed_over.append(number)
        else:
            return False
        for other in passed_over:
            lately[other] += 1
            if lately[other] == _PASSED_OVER_MAX:
                del lately[other]
        del lately[number]
        lately[number] = 0
        return True

    def note(self, number: bytes) -> None:
        """Remember a descriptor as a connection's."""
        self._lately.pop(number, None)
        self._lately[number] = 0
        if len(self._lately) > _LATELY_MAX:
            del self._lately[next(iter(self._lately))]

    def link(self, name: bytes) -> bytes | None:
        try:
            return os.readlink(name, dir_fd=self._directory)
        except OSError:
            return None

    def name_as(self, program: bytes) -> ClientName | None:
        """
        Return the name that the process was started with by `wiremeter run`, itself or an ancestor.

        It keeps its environment until it becomes another program than `program`, so that one look is enough for both. A
        program that executes itself with another environment is not noticed: a look costs 10 µs, for each connection.
        """
        if program != self._named_as:
            self._name, self._named_as = self._read_name(), program
        return self._name

    def _read_name(self) -> ClientName | None:
        try:
            descriptor = os.open(b"environ", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
            with open(descriptor, "rb") as variables:
                found = variables.read(_ENVIRONMENT_BYTES_MAX).split(b"\0")
        except OSError:
            return None
        value = next((each for each in found if each.startswith(_NAME_VARIABLE)), None)
        return None if value is None else client_name(_text(value[len(_NAME_VARIABLE) :]))


@lru_cache(maxsize=_REMEMBERED_MAX)
def _client(uid: int, pid: int | None, program: bytes | None, folder: bytes | None, name: ClientName | None) -> Client:
    """Put what is known of a client into words; most connections are made by the same few."""
    executable = None
    if program is not None:
        # An update that replaced the program behind its running process adds that word, proc(5).
        executable = _text(program.rpartition(b"/")[2]).removesuffix(" (deleted)") or None
    cwd = None if folder is None else _text(folder)
    label, run = (name.label, name.run) if name else (None, None)
    return Client(uid=uid, pid=pid, executable=executable, cwd=cwd, label=label, run=run)


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _link(path: bytes) -> bytes | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _text(name: bytes) -> str:
    """A name need not be UTF-8, and records must be."""
    return name.decode("utf-8", "replace")


def _read_proc_net(near: Address, far: Address) -> Owner | None:
    """Find a socket in /proc/net/tcp or tcp6 (proc(5)), an IPv4 one also as an IPv6 socket with mapped addresses."""
    keys = {_proc_address(near, mapped) + " " + _proc_address(far, mapped) for mapped in (False, True)}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                for line in lines:
                    fields = line.split()
                    if f"{fields[1]} {fields[2]}" in keys:
                        return Owner(int(fields[7]), int(fields[9]))
        except (OSError, IndexError, ValueError):
            continue
    return None


def _proc_address(address: Address, mapped: bool) -> str:
    ip = ipaddress.ip_address(address[0])
    packed = ip.packed
    if mapped and ip.version == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    words = (packed[n : n + 4] for n in range(0, len(packed), 4))
    # Each word is printed as a number of the machine's byte order.
    return "".join(f"{struct.unpack('=I', word)[0]:08X}" for word in words) + f":{address[1]:04X}"
