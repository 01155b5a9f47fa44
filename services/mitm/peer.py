"""
Who made a connection: user, process and program of the peer, asked of the kernel.

The user comes from `NETLINK_SOCK_DIAG` (sock_diag(7)) by the connection's two addresses, as the client's own socket has
them: for a redirected connection the far one is the original destination. Where that is missing, `/proc/net/tcp` and
`tcp6` say the same, slower. The process is whoever holds the socket's inode in `/proc/<pid>/fd`, which only root and
the same user may look at; the search is bounded and begins with the processes that were found before. A process that
`wiremeter run` started says so in its environment, of which nothing else is kept.
"""

import ipaddress
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from services.events.exchange import Client
from services.runtime.environment import NAME_VARIABLE, ClientName, client_name

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NLM_F_REQUEST = 1
_NO_COOKIE = b"\xff" * 8
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, before the addresses
_ADDRESSES = struct.Struct("!HH16s16s4x")  # struct inet_diag_sockid: ports, addresses padded with zeros, interface
_ANSWER_TAIL = struct.Struct("=IIIII")  # struct inet_diag_msg, after the addresses: expires, queues, uid, inode
_ANSWER_TAIL_AT = _HEADER.size + 4 + 48
_ANSWER_WAIT_S = 0.5
_ALL_STATES = 0xFFF
# Processes remembered as likely holders of the next connection, per process of ours.
_REMEMBERED_MAX = 64
# Descriptors looked at in one search: a machine with very many processes must not stop the traffic.
_SEARCH_LINKS_MAX = 20_000
# The kernel's own limit for arguments and environment together, execve(2), on machines with the usual stack limit.
_ENVIRONMENT_BYTES_MAX = 2 * 1024 * 1024
_NAME_VARIABLE = f"{NAME_VARIABLE}=".encode()

Address = tuple[str, int]
_ProcessId = tuple[int, int, int, str | None]


@dataclass(frozen=True, slots=True)
class Owner:
    """A socket's owner by the kernel's word."""

    uid: int
    inode: int


class PeerDirectory:
    """Asks the kernel; keeps one netlink socket open."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._remembered: OrderedDict[int, None] = OrderedDict()
        self._sequence = 0
        self._names: OrderedDict[_ProcessId, ClientName | None] = OrderedDict()
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
            self._netlink.settimeout(_ANSWER_WAIT_S)
        except OSError:
            pass  # /proc/net/tcp will do

    def close(self) -> None:
        """Close the netlink socket."""
        if self._netlink is not None:
            self._netlink.close()

    def owner_of(self, near: Address, far: Address) -> Owner | None:
        """Return who owns the TCP socket with the addresses `near` (its own) and `far`; None if nobody can be found."""
        if self._netlink is not None:
            try:
                return self._ask(self._netlink, near, far)
            except OSError:
                pass
        return _read_proc_net(near, far)

    def client_of(self, owner: Owner) -> Client:
        """Describe the process that holds a socket, as far as we may see it."""
        pid = self._holder_of(owner)
        if pid is None:
            return Client(uid=owner.uid)
        self._remembered[pid] = None
        self._remembered.move_to_end(pid)
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return Client(
            uid=owner.uid,
            pid=pid,
            # An update that replaced the program behind its running process adds that word, proc(5).
            executable=os.path.basename(_link(f"/proc/{pid}/exe") or "").removesuffix(" (deleted)") or None,
            cwd=_link(f"/proc/{pid}/cwd"),
        )

    def name_of(self, pid: int) -> ClientName | None:
        """
        Return the name that a process was started with by `wiremeter run`, itself or an ancestor.

        A process keeps its environment until it becomes another program, so that one look is enough for both.
        """
        identity = _identity_of(pid)
        if identity is None:
            return None
        if identity not in self._names:
            self._names[identity] = self._read_name(pid)
            if len(self._names) > _REMEMBERED_MAX:
                self._names.popitem(last=False)
        return self._names[identity]

    def _read_name(self, pid: int) -> ClientName | None:
        try:
            with open(f"/proc/{pid}/environ", "rb") as variables:
                found = variables.read(_ENVIRONMENT_BYTES_MAX).split(b"\0")
        except OSError:
            return None
        value = next((each for each in found if each.startswith(_NAME_VARIABLE)), None)
        return None if value is None else client_name(value[len(_NAME_VARIABLE) :].decode("utf-8", "replace"))

    def _ask(self, netlink: socket.socket, near: Address, far: Address) -> Owner | None:
        family = socket.AF_INET6 if ":" in near[0] else socket.AF_INET
        near_ip, far_ip = socket.inet_pton(family, near[0]), socket.inet_pton(family, far[0])
        body = (
            _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES)
            + _ADDRESSES.pack(near[1], far[1], near_ip, far_ip)
            + _NO_COOKIE
        )
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        size = _HEADER.size + len(body)
        netlink.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0) + body)
        kind, sequence, answer = 0, -1, b""
        while sequence != self._sequence:  # an answer that came too late last time is passed over
            answer = netlink.recv(8192)
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
        if kind != _SOCK_DIAG_BY_FAMILY:
            return None  # NLMSG_ERROR: no such socket
        *_, uid, inode = _ANSWER_TAIL.unpack_from(answer, _ANSWER_TAIL_AT)
        return Owner(uid, inode)

    def _holder_of(self, owner: Owner) -> int | None:
        wanted = f"socket:[{owner.inode}]"
        seen = 0
        for pid in self._likely_pids(owner.uid):
            try:
                names = os.listdir(f"/proc/{pid}/fd")
            except OSError:
                continue
            for name in reversed(names):  # a new socket has a high number
                seen += 1
                if _link(f"/proc/{pid}/fd/{name}") == wanted:
                    return pid
            if seen > _SEARCH_LINKS_MAX:
                return None
        return None

    def _likely_pids(self, uid: int) -> Iterator[int]:
        remembered = tuple(reversed(self._remembered))
        yield from (pid for pid in remembered if _uid_of(pid) == uid)
        others = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        # New processes have high numbers, and new connections are mostly theirs.
        yield from (pid for pid in sorted(others, reverse=True) if pid not in remembered and _uid_of(pid) == uid)


def _identity_of(pid: int) -> _ProcessId | None:
    """Tell a process from a later one of its number (its directory is another one then), and from what it becomes."""
    try:
        seen = os.stat(f"/proc/{pid}")
    except OSError:
        return None
    return pid, seen.st_ino, seen.st_ctime_ns, _link(f"/proc/{pid}/exe")


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        # A name need not be UTF-8, and records must be.
        return os.readlink(os.fsencode(path)).decode("utf-8", "replace")
    except OSError:
        return None


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
