"""The test machine is what its page says, and never outlives the test."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.netns import PROVIDER, Machine, dns_answer, why_unavailable

ROOT = Path(__file__).parents[2]
needs_machine = [
    pytest.mark.root,
    pytest.mark.skipif(why_unavailable() is not None, reason=why_unavailable() or ""),
]

KILLED_TEST = """
import json, os, sys
from tests.support.netns import Machine
machine = Machine()
sleeper = machine.popen(["sh", "-c", "echo; sleep 600"])
sleeper.stdout.readline()  # now it is inside
print(json.dumps([os.readlink(f"/proc/{sleeper.pid}/ns/net"), machine._scratch]), flush=True)
sys.stdin.read()
"""


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_dns_answers_what_the_table_says() -> None:
    """A and AAAA; nothing for a known name without that family; NXDOMAIN for an unknown name."""
    names = {"provider.test": PROVIDER, "four.test": PROVIDER[:1]}
    assert dns_answer(query("Provider.test", 1), names).endswith(socket.inet_aton(PROVIDER[0]))
    assert dns_answer(query("provider.test", 28), names).endswith(socket.inet_pton(socket.AF_INET6, PROVIDER[1]))
    assert struct.unpack_from("!HH", dns_answer(query("four.test", 28), names), 4) == (1, 0)
    assert dns_answer(query("other.test", 1), names)[3] & 0xF == 3


class TestMachine:
    pytestmark = needs_machine

    def test_names_resolve_and_may_change(self) -> None:
        with Machine() as machine:
            machine.names["late.test"] = ["203.0.113.10"]
            assert machine.run(["getent", "ahosts", "late.test"], check=True).stdout.split()[0] == "203.0.113.10"
            assert "2001:db8:2::10" in machine.run(["getent", "ahosts", "provider.test"], check=True).stdout
            assert machine.run(["getent", "ahosts", "nowhere.test"]).returncode == 2

    @pytest.mark.parametrize("address", PROVIDER)
    def test_a_socket_of_the_test_serves_the_machine(self, address: str) -> None:
        """The provider stands on the far side although its code runs in the test process."""
        with Machine() as machine:
            machine.add_user("alice")
            with machine.on("inet"):
                listener = socket.create_server(
                    (address, 443), family=socket.AF_INET6 if ":" in address else socket.AF_INET
                )
            with listener:
                connect = f"import socket; socket.create_connection(('{address}', 443), 5)"
                machine.run(["/usr/bin/python3", "-c", connect], user="alice", check=True)
                listener.accept()[0].close()

    def test_users_and_files_are_private(self) -> None:
        before = Path("/etc/passwd").read_text()
        with Machine() as machine:
            machine.add_user("only-inside")
            assert "only-inside" in machine.path("/etc/passwd").read_text()
            machine.run(["touch", "/var/lib/only-inside"], check=True)
            assert Path("/etc/passwd").read_text() == before
            assert not Path("/var/lib/only-inside").exists()

    def test_signals_reach_the_program_itself(self) -> None:
        with Machine() as machine:
            process = machine.popen(["sleep", "600"])
            process.terminate()
            assert process.wait(timeout=5) == -signal.SIGTERM

    def test_closing_ends_what_still_runs(self) -> None:
        with Machine() as machine:
            process = machine.popen(["sh", "-c", "trap '' TERM; sleep 600 & wait"])
        assert process.returncode == -signal.SIGKILL

    def test_a_killed_test_leaves_nothing(self) -> None:
        """No process, no namespace, no directory."""
        test = subprocess.Popen(
            [sys.executable, "-c", KILLED_TEST],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert test.stdin is not None and test.stdout is not None
        network, scratch = json.loads(test.stdout.readline())
        assert network != os.readlink("/proc/self/ns/net")
        assert _processes_in(network)
        test.kill()
        test.communicate(timeout=10)
        deadline = time.monotonic() + 10
        while _processes_in(network) or Path(scratch).exists():
            assert time.monotonic() < deadline, "the machine outlives its test"


def _processes_in(network: str) -> list[str]:
    links = [Path(f"/proc/{entry}/ns/net") for entry in os.listdir("/proc") if entry.isdigit()]
    return [str(link) for link in links if _target(link) == network]


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None
