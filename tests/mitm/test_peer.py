"""Who made a connection, by the kernel's word."""

import contextlib
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import services.mitm.peer as peer_module
from services.events.exchange import Client
from services.mitm.peer import Address, Owner, PeerDirectory
from services.runtime.environment import ClientName


@pytest.fixture
def directory() -> Iterator[PeerDirectory]:
    found = PeerDirectory()
    yield found
    found.close()


@contextlib.contextmanager
def connection(family: socket.AddressFamily, target: str) -> Iterator[tuple[socket.socket, Address, Address]]:
    """Connect to ourselves; yield the client's socket and its two addresses as the server sees them."""
    server = "::1" if family is socket.AF_INET6 and "127" not in target else "127.0.0.1"
    with socket.create_server((server, 0), family=socket.AF_INET6 if ":" in server else socket.AF_INET) as listening:
        with socket.socket(family) as client:
            client.connect((target, listening.getsockname()[1]))
            accepted, far = listening.accept()
            with accepted:
                yield client, far[:2], accepted.getsockname()[:2]


WAYS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::ffff:127.0.0.1")]


@pytest.mark.parametrize(("family", "target"), WAYS, ids=["IPv4", "IPv6", "IPv4 on an IPv6 socket"])
@pytest.mark.parametrize("lookup", ["netlink", "proc"])
def test_a_connection_is_known_by_its_addresses(
    directory: PeerDirectory, family: socket.AddressFamily, target: str, lookup: str
) -> None:
    """By netlink, and where that is missing by /proc/net: user and inode."""
    if lookup == "proc":
        directory.close()
        directory._netlink = None
    with connection(family, target) as (client, near, far):
        owner = directory.owner_of(near, far)
        assert owner == Owner(os.getuid(), os.fstat(client.fileno()).st_ino)


@pytest.mark.parametrize("ask", [PeerDirectory.owner_of, lambda self, near, far: peer_module._read_proc_net(near, far)])
def test_a_connection_that_is_not_there_has_no_owner(
    directory: PeerDirectory, ask: Callable[[PeerDirectory, Address, Address], Owner | None]
) -> None:
    """Neither have its addresses the wrong way round, which are the server's own socket."""
    assert ask(directory, ("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert ask(directory, ("::1", 1), ("::1", 2)) is None


def test_a_process_is_found_by_its_socket(directory: PeerDirectory) -> None:
    """Pid, program and working directory."""
    with connection(socket.AF_INET, "127.0.0.1") as (_, near, far):
        owner = directory.owner_of(near, far)
        assert owner is not None
        client = directory.client_of(owner)
    assert (client.uid, client.pid, client.cwd) == (os.getuid(), os.getpid(), os.getcwd())
    assert client.executable == os.path.basename(os.readlink("/proc/self/exe"))


class Held:
    """A connection that a process of its own holds, and nobody else."""

    def __init__(self, directory: PeerDirectory, script: str, **variables: str) -> None:
        with connection(socket.AF_INET, "127.0.0.1") as (client, near, far):
            owner = directory.owner_of(near, far)
            assert owner is not None
            self.owner = owner
            self._process = subprocess.Popen(
                ["sh", "-c", f"echo x; {script}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | variables,
                pass_fds=[client.fileno()],
            )
            self.pid = self._process.pid
            assert self.hear() == "x"  # it runs

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)


def own_socket(directory: PeerDirectory, near: Address, far: Address) -> Client:
    owner = directory.owner_of(near, far)
    assert owner is not None
    return directory.client_of(owner)


def test_a_process_is_named_by_what_it_was_started_with(directory: PeerDirectory) -> None:
    """Itself or by an ancestor, unless it has said its name; nothing else of its environment is looked at."""
    secret = {"ANTHROPIC_API_KEY": "WIREMETER_RUN=no:NO"}
    for variables, expected in (
        ({"WIREMETER_RUN": "mine:01K"}, ("mine", "01K")),
        ({"WIREMETER_RUN": "caf\u00e9:01K"}, ("caf\u00e9", "01K")),
        ({"WIREMETER_RUN": ""}, (None, None)),
        (secret, (None, None)),
    ):
        with Held(directory, "read y", **(secret | variables)) as held:
            client = directory.client_of(held.owner)
            assert (client.pid, client.label, client.run) == (held.pid, *expected)
            client = directory.client_of(held.owner, ClientName("said"))
            assert (client.pid, client.label, client.run) == (held.pid, "said", None)
        client = directory.client_of(held.owner, ClientName("said"))
        assert client == Client(uid=os.getuid(), label="said")  # it has gone


def test_a_process_that_becomes_another_program_is_looked_at_again(directory: PeerDirectory) -> None:
    """It may have another environment then; until then one look is enough."""
    with Held(directory, "read y; WIREMETER_RUN=second:2 exec cat", WIREMETER_RUN="first:1") as held:
        for _ in range(2):
            client = directory.client_of(held.owner)
            assert (client.label, client.run) == ("first", "1")
        held.tell("go on")
        held.tell("here")
        assert held.hear() == "here"  # cat runs
        client = directory.client_of(held.owner)
        assert (client.pid, client.executable) == (held.pid, os.path.basename(os.path.realpath("/bin/cat")))
        assert (client.label, client.run) == ("second", "2")


def test_a_process_that_changes_its_directory_is_where_it_is(directory: PeerDirectory) -> None:
    """A connection's record says where its client was when it was asked."""
    with Held(directory, "read y; cd /; echo there; read y") as held:
        assert directory.client_of(held.owner).cwd == os.getcwd()
        held.tell("go")
        assert held.hear() == "there"
        assert directory.client_of(held.owner).cwd == "/"


def test_a_socket_that_is_passed_on_is_its_new_holders(directory: PeerDirectory) -> None:
    """Though the one before is alive and remembered for it."""
    with connection(socket.AF_INET, "127.0.0.1") as (client, near, far):
        owner = directory.owner_of(near, far)
        assert owner is not None and directory.client_of(owner).pid == os.getpid()
        command = ["sh", "-c", "echo x; read y"]
        process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, pass_fds=[client.fileno()])
        assert process.stdout is not None and process.stdout.readline() == "x\n"
        client.close()
        assert directory.client_of(owner).pid == process.pid
        process.communicate(timeout=10)
        assert directory.client_of(owner) == Client(uid=os.getuid())


@pytest.mark.parametrize("user", [os.getuid(), -1])
def test_a_number_that_is_used_again_is_another_process(directory: PeerDirectory, user: int) -> None:
    """What is remembered of the one before counts for nothing, whosever that was."""
    with Held(directory, "read y", WIREMETER_RUN="gone:1") as held:
        assert directory.client_of(held.owner).label == "gone"
    before = len(os.listdir("/proc/self/fd"))
    remembered = directory._remembered.pop(held.pid)
    assert remembered.has_gone()
    remembered.uid = user
    remembered.pid = os.getpid()  # as if we had got its number
    directory._remembered[os.getpid()] = remembered
    with connection(socket.AF_INET, "127.0.0.1") as (client, near, far):
        remembered.note(str(client.fileno()).encode())
        found = own_socket(directory, near, far)
    assert (found.pid, found.cwd, found.label) == (os.getpid(), os.getcwd(), None)
    assert directory._remembered[os.getpid()] is not remembered
    assert len(os.listdir("/proc/self/fd")) == before
    assert directory.client_of(held.owner) == Client(uid=os.getuid())


def test_a_process_that_has_gone_is_forgotten(directory: PeerDirectory) -> None:
    """With its descriptor, when it is looked at next."""
    with Held(directory, "read y") as held:
        assert directory.client_of(held.owner).pid == held.pid
    assert directory.client_of(held.owner).pid is None
    assert not directory._remembered


def test_a_process_of_another_user_is_not_the_owners(directory: PeerDirectory) -> None:
    """Whoever else holds the socket."""
    with connection(socket.AF_INET, "127.0.0.1") as (_, near, far):
        owner = directory.owner_of(near, far)
        assert owner is not None and directory.client_of(owner).pid == os.getpid()
        other = Owner(owner.uid + 1, owner.inode)
        assert directory.client_of(other) == Client(uid=other.uid)


def test_a_connection_is_found_whatever_number_it_has(directory: PeerDirectory) -> None:
    """More numbers than are looked at first, in any order, and one of them something else meanwhile."""
    for count in (1, 3, 20, 3, 1, 20):
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(connection(socket.AF_INET, "127.0.0.1")) for _ in range(count)]
            for _, near, far in (*opened, *reversed(opened)):
                assert own_socket(directory, near, far).pid == os.getpid()


def test_a_process_that_has_gone_leaves_its_user(directory: PeerDirectory) -> None:
    """The rest is unknown."""
    client = directory.client_of(Owner(os.getuid(), 1))
    assert (client.uid, client.pid, client.executable, client.cwd) == (os.getuid(), None, None, None)


def test_processes_that_connected_before_are_looked_at_first(directory: PeerDirectory) -> None:
    """And so many are remembered, not more, each by one descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(-200, 0):
        process = directory._remembered[number] = peer_module._Process(os.getppid())
        process.pid = number
    with connection(socket.AF_INET, "127.0.0.1") as (_, near, far):
        assert own_socket(directory, near, far).pid == os.getpid()
        assert list(directory._remembered)[-1] == os.getpid()
        assert next(directory._likely_pids(os.getuid())) == os.getpid()
        assert own_socket(directory, near, far).pid == os.getpid()
    assert os.getpid() in directory._remembered
    assert len(os.listdir("/proc/self/fd")) == before + len(directory._remembered)
    directory.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # the netlink socket


def test_so_many_processes_are_remembered(directory: PeerDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ones that were found longest ago go, with their descriptors."""
    monkeypatch.setattr(peer_module, "_REMEMBERED_MAX", 2)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Held(directory, "read y")) for _ in range(3)]
        before = len(os.listdir("/proc/self/fd"))
        for each in (*held, *held):
            assert directory.client_of(each.owner).pid == each.pid
        assert list(directory._remembered) == [each.pid for each in held[1:]]
        assert len(os.listdir("/proc/self/fd")) == before + 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_users_connection_is_that_users(directory: PeerDirectory) -> None:
    """Whoever asks."""
    nobody = pwd.getpwnam("nobody")
    program = "import socket,sys;s=socket.create_connection(('127.0.0.1',int(sys.argv[1])));s.recv(1)"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = ["/usr/bin/python3", "-c", program, str(port)]
        if not os.access(command[0], os.X_OK):
            command[0] = sys.executable
        process = subprocess.Popen(command, user=nobody.pw_uid, group=nobody.pw_gid, cwd="/")
        try:
            listening.settimeout(10)
            accepted, near = listening.accept()
            with accepted:
                owner = directory.owner_of(near, ("127.0.0.1", port))
                assert owner is not None and owner.uid == nobody.pw_uid
                assert directory.client_of(owner).pid == process.pid
        finally:
            process.wait(10)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_process_that_becomes_another_users_is_found_again(directory: PeerDirectory) -> None:
    """As that user's, for what it connects from then on."""
    nobody = pwd.getpwnam("nobody")
    program = (
        "import os,socket,sys;s=socket.create_connection(('127.0.0.1',int(sys.argv[1])));s.recv(1);"
        f"os.getuid() or (os.setgid({nobody.pw_gid}),os.setuid({nobody.pw_uid}),os.execv(sys.executable,sys.orig_argv))"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        port = listening.getsockname()[1]
        command = ["/usr/bin/python3", "-c", program, str(port)]
        if not os.access(command[0], os.X_OK):
            command[0] = sys.executable
        process = subprocess.Popen(command, cwd="/")
        try:
            for user in (0, nobody.pw_uid):
                accepted, near = listening.accept()
                with accepted:
                    owner = directory.owner_of(near, ("127.0.0.1", port))
                    assert owner is not None and owner.uid == user
                    assert directory.client_of(owner).pid == process.pid
                    assert directory._remembered[process.pid].uid == user
        finally:
            process.wait(10)
