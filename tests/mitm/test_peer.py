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


def test_a_process_is_named_by_what_it_was_started_with(directory: PeerDirectory) -> None:
    """Itself or by an ancestor; nothing else of its environment is looked at."""
    secret = {"ANTHROPIC_API_KEY": "WIREMETER_RUN=no:NO"}
    for variables, expected in (
        ({"WIREMETER_RUN": "mine:01K"}, ClientName("mine", "01K")),
        ({"WIREMETER_RUN": "caf\u00e9:01K"}, ClientName("caf\u00e9", "01K")),
        ({"WIREMETER_RUN": ""}, None),
        (secret, None),
    ):
        process = subprocess.Popen(
            ["sh", "-c", "echo x; read y"], stdin=-1, stdout=-1, text=True, env=secret | variables
        )
        try:
            assert process.stdout is not None and process.stdout.readline() == "x\n"  # it runs
            assert directory.name_of(process.pid) == expected
        finally:
            process.communicate(timeout=10)
    assert directory.name_of(process.pid) is None  # it has gone


def test_a_process_that_becomes_another_program_is_looked_at_again(directory: PeerDirectory) -> None:
    """It may have another environment then; until then one look is enough."""
    process = subprocess.Popen(
        ["sh", "-c", "echo x; read y; WIREMETER_RUN=second:2 exec cat"],
        stdin=-1,
        stdout=-1,
        text=True,
        env=os.environ | {"WIREMETER_RUN": "first:1"},
    )
    try:
        assert process.stdin is not None and process.stdout is not None and process.stdout.readline() == "x\n"
        for _ in range(2):
            assert directory.name_of(process.pid) == ClientName("first", "1")
        process.stdin.write("go on\nhere\n")
        process.stdin.flush()
        assert process.stdout.readline() == "here\n"  # cat runs
        assert directory.name_of(process.pid) == ClientName("second", "2")
    finally:
        process.communicate(timeout=10)


def test_a_process_that_has_gone_leaves_its_user(directory: PeerDirectory) -> None:
    """The rest is unknown."""
    client = directory.client_of(Owner(os.getuid(), 1))
    assert (client.uid, client.pid, client.executable, client.cwd) == (os.getuid(), None, None, None)


def test_processes_that_connected_before_are_looked_at_first(directory: PeerDirectory) -> None:
    """And so many are remembered, not more."""
    for pid in range(1, 200):
        directory._remembered[pid] = None
    with connection(socket.AF_INET, "127.0.0.1") as (_, near, far):
        owner = directory.owner_of(near, far)
        assert owner is not None
        directory.client_of(owner)
        assert list(directory._remembered)[-1] == os.getpid()
        assert next(directory._likely_pids(os.getuid())) == os.getpid()
        directory.client_of(owner)
    assert os.getpid() in directory._remembered


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
