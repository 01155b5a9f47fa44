"""Nothing is lost and nothing is counted twice, whatever dies when: real processes, real kills, a torn journal."""

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zmq

from services.bus.addresses import Addresses
from services.bus.delivery import encode_batch
from services.bus.store import PastEpoch
from services.ledger.store import LedgerReader
from services.runtime.state import StateDirectory
from tests.support.checkout import PROJECT, free_ports
from tests.support.eventually import eventually
from tests.support.records import usage_json

RATE_PER_S = 1000


class Bench:
    """An accountant and publishers on a state directory of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.usage_address = ("127.0.0.1", free_ports(1)[0])
        StateDirectory(home=home).make()
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("WIREMETER_")}
        self.environ |= {
            "WIREMETER_HOME": str(home),
            "WIREMETER_CONFIG": str(home / "wiremeter.toml"),
            "WIREMETER_ACCOUNTANT_USAGE_ENDPOINT": "tcp://{}:{}".format(*self.usage_address),
        }
        (home / "wiremeter.toml").touch()
        (home / "log").mkdir()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def ledger(self) -> Path:
        return self.home / "ledger.sqlite3"

    def start(self, name: str) -> None:
        """Start the accountant or a publisher."""
        arguments = ["-m", "services.accountant"]
        if name != "accountant":
            acknowledged = str(self.home / f"{name}.acknowledged")
            arguments = ["-m", "tests.support.publisher_driver", str(self.home), name, acknowledged, str(RATE_PER_S)]
        with (self.home / "log" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=PROJECT, env=self.environ, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """Kill -9."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> None:
        """Ask to stop."""
        process = self.processes.pop(name)
        process.terminate()
        assert process.wait(timeout=20) == 0

    def acknowledged(self, name: str, word: str) -> list[str]:
        """Return the exchanges that the journal of a publisher has taken."""
        path = self.home / f"{name}.acknowledged"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith(word)]

    def rows(self) -> list[tuple[int, dict[str, object]]]:
        """Return what the ledger has."""
        with contextlib.closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as connection:
            return [(seq, orjson.loads(body)) for seq, body in connection.execute("SELECT seq, body FROM usage")]

    def row_count(self) -> int:
        """Return how many rows the ledger has; 0 while there is none."""
        return self.totals()["requests"]  # type: ignore[no-any-return]

    def totals(self) -> dict[str, Any]:
        """Return the sums that the ledger keeps."""
        with contextlib.closing(LedgerReader(self.ledger)) as reader:
            return reader.report()["totals"]  # type: ignore[return-value]

    def logs(self) -> str:
        """Return the last lines of all logs, for when a test fails."""
        return "\n".join(path.read_text()[-2000:] for path in (self.home / "log").glob("*.log"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        made = Bench(Path(folder))
        yield made
        for name in list(made.processes):
            made.kill(name)


class Acknowledged:
    """What the publishers' journals had taken at one moment."""

    def __init__(self, bench: Bench, publishers: list[str]) -> None:
        self.started = {key for name in publishers for key in bench.acknowledged(name, "started")}
        self.finished = {key for name in publishers for key in bench.acknowledged(name, "finished")}


def exchanges_of(bench: Bench) -> list[str]:
    return [str(body["exchange_id"]) for _, body in bench.rows()]


def deliver(bench: Bench, publishers: list[str], wanted: set[str]) -> None:
    """Start publishers that were killed once more, so that they deliver what they left, wait for it, and stop all."""
    for name in publishers:
        bench.start(name)
    eventually(f"{len(wanted)} exchanges in the ledger\n{bench.logs()}", lambda: wanted <= set(exchanges_of(bench)), 30)
    for name in publishers:
        bench.kill(name)
    bench.stop("accountant")


def assert_exact(bench: Bench, acknowledged: Acknowledged) -> None:
    """Every exchange that began is in the ledger exactly once: finished if it was, else as truncated."""
    rows = bench.rows()
    assert [key for key, count in Counter(exchanges_of(bench)).items() if count > 1] == []
    outcome = {str(body["exchange_id"]): body["outcome"] for _, body in rows}
    assert acknowledged.started - outcome.keys() == set()
    assert {key for key in acknowledged.finished if outcome[key] != "ok"} == set()
    assert_adds_up(bench)


def assert_adds_up(bench: Bench) -> None:
    """The ledger's numbers have no gap, and its sums are those of its rows."""
    rows = bench.rows()
    assert sorted(seq for seq, _ in rows) == list(range(1, len(rows) + 1))
    totals = bench.totals()
    assert totals["requests"] == len(rows)
    tokens = sum(body["usage"].get("input_tokens", 0) for _, body in rows)  # type: ignore[attr-defined]
    assert totals["usage"]["input_tokens"] == tokens


def grow(bench: Bench, rows: int) -> None:
    """Wait until the ledger has that many more rows."""
    wanted = bench.row_count() + rows
    eventually(f"{wanted} rows\n{bench.logs()}", lambda: bench.row_count() >= wanted, 30)


def test_kills_lose_and_double_nothing(bench: Bench) -> None:
    """Two publishers and the accountant, killed -9 at random times, singly and together, under a stream of records."""
    publishers = ["mitm-0", "mitm-1"]
    chance = random.Random(7)
    for name in ["accountant", *publishers]:
        bench.start(name)
    for _ in range(20):
        grow(bench, chance.randrange(1, 400))
        victims = chance.choice([["accountant"], ["mitm-0"], ["mitm-1"], publishers, ["accountant", "mitm-0"]])
        for name in victims:
            bench.kill(name)
        for name in victims:
            bench.start(name)
    for name in publishers:
        bench.kill(name)
    acknowledged = Acknowledged(bench, publishers)
    deliver(bench, publishers, acknowledged.started)
    assert_exact(bench, acknowledged)


def test_a_power_cut_takes_only_what_it_tears_away_and_doubles_nothing(bench: Bench) -> None:
    """The journal loses its end, also records that were committed already; what is left of it arrives exactly once."""
    chance = random.Random(11)
    wanted: set[str] = set()
    bench.start("accountant")
    for _ in range(6):
        bench.start("mitm-0")
        grow(bench, chance.randrange(50, 400))
        bench.kill("mitm-0")
        epoch = max((bench.home / "journal" / "mitm-0").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        last = max(epoch.glob("*.segment"))
        os.truncate(last, max(200, last.stat().st_size - chance.randrange(1, 100_000)))
        past = PastEpoch(epoch)
        past.scan()
        left = past.read(1, 1 << 20, 1 << 30) + past.unfinished.read(1, 1 << 20, 1 << 30)
        wanted |= {orjson.loads(record)["exchange_id"] for record in left} | set(exchanges_of(bench))
    deliver(bench, ["mitm-0"], wanted)
    assert [key for key, count in Counter(exchanges_of(bench)).items() if count > 1] == []
    assert_adds_up(bench)


def test_an_older_ledger_catches_up(bench: Bench) -> None:
    """A restored copy of the ledger gets what it missed from the publishers' journals, which keep it for a while."""
    bench.start("accountant")
    bench.start("mitm-0")
    grow(bench, 300)
    bench.stop("accountant")
    shutil.copy(bench.ledger, bench.home / "older.sqlite3")
    bench.start("accountant")
    grow(bench, 300)
    bench.kill("mitm-0")  # the second epoch is live when the older ledger comes, the first is not
    bench.start("mitm-0")
    grow(bench, 300)
    bench.stop("accountant")
    for suffix in ("-wal", "-shm"):
        Path(f"{bench.ledger}{suffix}").unlink(missing_ok=True)
    (bench.home / "older.sqlite3").replace(bench.ledger)
    bench.start("accountant")
    grow(bench, 900)
    bench.kill("mitm-0")
    acknowledged = Acknowledged(bench, ["mitm-0"])
    deliver(bench, ["mitm-0"], acknowledged.started)
    assert_exact(bench, acknowledged)


def test_nonsense_leaves_the_accountant_running(bench: Bench) -> None:
    """Wrong frames, wrong JSON, wrong schemas and records on its sockets, and HTTP to the public port."""
    addresses = Addresses(bench.home / "run")
    bench.start("accountant")
    bench.start("mitm-0")
    grow(bench, 10)
    socket_ = zmq.Context.instance().socket(zmq.PUB)
    socket_.setsockopt(zmq.LINGER, 0)
    socket_.connect(addresses.exchange)
    good = encode_batch("evil", "0" * 32, 1, [b"{}", b"[]", b"17", usage_json("x", at="yesterday"), usage_json("y")])
    nonsense: list[list[bytes]] = [
        [b"exchange.evil"],
        [b"exchange.evil", b"{", b"}"],
        [b"exchange.evil", b"{"],
        [b"hello.evil", b"[]"],
        [b"exchange.\xff", b"{}"],
        [b"exchange.evil", b"{}"],
        [b"hello.evil", b'{"schema":"wiremeter.hello/1","publisher":7}'],
        [b"exchange.evil", good.replace(b'"first_seq":1', b'"first_seq":1e300')],
        [b"exchange.evil", good],
    ]

    def refused() -> int:
        for frames in nonsense:
            socket_.send_multipart(frames)
        with contextlib.closing(sqlite3.connect(f"file:{bench.ledger}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM refused").fetchone()[0]  # type: ignore[no-any-return]

    try:
        eventually(f"records refused\n{bench.logs()}", lambda: refused() == 4)
    finally:
        socket_.close()
    host, port = bench.usage_address
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(100)
    grow(bench, 10)
    assert "y" in {body["event_id"] for _, body in bench.rows()}  # what can be read in such a batch counts
    assert bench.processes["accountant"].poll() is None
    bench.kill("mitm-0")
    bench.stop("accountant")


def test_a_port_that_is_taken_is_named_and_ends_the_accountant(bench: Bench) -> None:
    """One line, status 1: supervisord tries again until the port is free."""
    with socket.create_server(bench.usage_address):
        bench.start("accountant")
        assert bench.processes["accountant"].wait(timeout=20) == 1
    line = orjson.loads((bench.home / "log" / "accountant.log").read_text().splitlines()[-1])
    assert line["level"] == "error"
    problem = f"tcp://127.0.0.1:{bench.usage_address[1]} cannot be bound: Address already in use"
    assert line["problem"] == f"{problem}; accountant.usage_endpoint sets another"


def test_a_ledger_that_cannot_be_used_is_waited_for(bench: Bench) -> None:
    """The process lives, the publisher keeps its journal; once the ledger can be used everything is there."""
    bench.ledger.write_bytes(b"this is no database, and long enough to be seen as none" * 100)
    bench.start("accountant")
    bench.start("mitm-0")
    log = bench.home / "log" / "accountant.log"
    eventually("the trouble in the log", lambda: log.exists() and "ledger.failed" in log.read_text())
    eventually("journaled records", lambda: len(bench.acknowledged("mitm-0", "finished")) > 100)
    assert bench.processes["accountant"].poll() is None
    bench.ledger.unlink()
    grow(bench, 100)
    bench.kill("mitm-0")
    acknowledged = Acknowledged(bench, ["mitm-0"])
    deliver(bench, ["mitm-0"], acknowledged.started)
    assert_exact(bench, acknowledged)
