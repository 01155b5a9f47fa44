"""What the kernel knows about processes, ports and locks."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.kernel import holder_of, holder_of_lock, is_taken, members_below, still_there

WAITS_FOR_INPUT = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def test_all_descendants_are_found() -> None:
    """A child and its child, each with its command."""
    script = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", script, *WAITS_FOR_INPUT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        found = {member.pid: member.command for member in members_below(child.pid)}
        assert set(found) == {child.pid, grandchild}
        assert "sys.stdin.read()" in found[grandchild]


def test_a_process_that_has_ended_is_not_there() -> None:
    """Not even as long as its parent has not asked for its status."""
    child = subprocess.Popen(WAITS_FOR_INPUT, stdin=subprocess.PIPE)
    members = members_below(child.pid)
    assert [member.pid for member in still_there(members)] == [child.pid]
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert still_there(members) == []
    child.wait()
    assert still_there(members) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_listener_of_a_port_is_found(address: str) -> None:
    """By its pid and command."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert is_taken(address, port)
        holder = holder_of(port)
        assert holder is not None and holder.startswith(f"pid {os.getpid()} (")
    assert not is_taken(address, port)
    assert holder_of(port) is None


def test_the_holder_of_a_lock_is_found(tmp_path: Path) -> None:
    """By its pid and command; a file without a lock has none."""
    path = tmp_path / "a.lock"
    with path.open("w") as file:
        assert holder_of_lock(path) is None
        fcntl.flock(file, fcntl.LOCK_SH)
        holder = holder_of_lock(path)
        assert holder is not None and holder.startswith(f"pid {os.getpid()} (")
    assert holder_of_lock(path) is None
