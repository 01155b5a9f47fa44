"""`wiremeter run`, as far as it goes without a program: what it needs, what it gives, what it waits for."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import services.cli.run as run_module
from services.cli.process import ProcessTree
from services.cli.run import Order, run
from services.cli.upstream import Api, ApiUnreachable
from services.events.exchange import Client
from services.ledger.entry import Arrival, Source, usage_entry
from services.ledger.store import LedgerStore
from services.runtime.settings import Settings
from services.runtime.state import StateDirectory
from tests.support.records import members_of, usage_record

SETTINGS = Settings()
NOTHING_RUNS = ProcessTree(Path("/nonexistent"))


def moment(offset_s: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=offset_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class FakeApi(Api):
    """frontproxy's answers, made up."""

    def __init__(self, *, alive: tuple[str, ...] = ("mitm-0", "mitm-1", "accountant"), **facts: object) -> None:
        super().__init__(1)
        self.alive = alive
        self.facts = facts
        self.asked = 0

    def health(self) -> dict[str, Any]:
        self.asked += 1
        names = ("mitm-0", "mitm-1", "accountant", "lsrunner")
        return {
            "processes": [
                {"name": name, "is_alive": name in self.alive, "last_seen": moment(1), "facts": self.facts}
                for name in names
            ]
        }


class NoApi(Api):
    def health(self) -> dict[str, Any]:
        raise ApiUnreachable("http://127.0.0.1:1/health: refused")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirectory:
    monkeypatch.setattr(StateDirectory, "shared", property(lambda self: self.home / "shared"))
    (tmp_path / "shared").mkdir()
    found = StateDirectory(home=tmp_path)
    found.trust_bundle.touch()
    found.authority_certificate.touch()
    return found


def ran(
    state: StateDirectory,
    *program: str,
    tree: ProcessTree = NOTHING_RUNS,
    api: Api | None = None,
    environ: Mapping[str, str] | None = None,
    **order: Any,
) -> int:
    environ = {"PATH": os.environ["PATH"]} if environ is None else environ
    return run(Order(program=program, **order), SETTINGS, state, tree, api or FakeApi(), environ)


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (NoApi(1), "start it with: make run"),
        (FakeApi(alive=("accountant",)), "mitm is not running"),
        (FakeApi(alive=("mitm-0", "lsrunner")), "accountant is not running"),
    ],
    ids=["nobody answers", "no mitm", "no accountant"],
)
def test_nothing_starts_that_would_not_be_metered(
    state: StateDirectory, tmp_path: Path, capfd: pytest.CaptureFixture[str], api: Api, words: str
) -> None:
    """Status 3, as for everything that needs a running Wiremeter."""
    assert ran(state, "touch", str(tmp_path / "ran"), api=api) == 3
    assert words in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_it_waits_for_a_start(state: StateDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    """Of supervisord, a moment ago, by the same script perhaps."""
    api = FakeApi(alive=("accountant",))

    class Starting(ProcessTree):
        def pid(self) -> int:
            api.alive = ("accountant", "mitm-0")
            return 1

    assert ran(state, "echo", "started", tree=Starting(state.home), api=api) == 0
    assert capfd.readouterr().out == "started\n"


def test_without_the_trust_bundle_nothing_starts(state: StateDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    """The program would not trust the proxy, and fail in its own words."""
    state.trust_bundle.unlink()
    assert ran(state, "echo", "started") == 1
    said = capfd.readouterr()
    assert "ca-bundle.pem is missing" in said.err and said.out == ""


def test_another_proxy_is_not_passed_by_silently(state: StateDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    """Wiremeter does not chain: going past a proxy is for its user to decide."""
    environ = {"PATH": os.environ["PATH"], "https_proxy": "http://proxy.example:3128"}
    assert ran(state, "echo", "started", environ=environ) == 1
    said = capfd.readouterr()
    assert "env -u https_proxy wiremeter run" in said.err and said.out == ""


def test_a_run_inside_a_run_is_its_own(state: StateDirectory) -> None:
    """The outer one's proxy is ours."""
    environ = {"PATH": os.environ["PATH"], "HTTPS_PROXY": f"http://outer:01K@127.0.0.1:{SETTINGS.mitm.port}"}
    assert ran(state, "true", environ=environ) == 0


def test_the_program_gets_its_environment_and_ours(state: StateDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    """Proxy with label and run, trust, and all that it had."""
    environ = {"PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": "k", "JAVA_TOOL_OPTIONS": "-Xmx1g"}
    program = ("python3", "-c", "import json, os; print(json.dumps(dict(os.environ)))")
    assert ran(state, *program, label="my agent", environ=environ) == 0
    found = json.loads(capfd.readouterr().out)
    label, _, run_id = found["WIREMETER_RUN"].partition(":")
    assert label == "my agent" and len(run_id) == 26
    assert found["HTTPS_PROXY"] == f"http://my%20agent:{run_id}@127.0.0.1:{SETTINGS.mitm.port}"
    assert found["SSL_CERT_FILE"] == str(state.trust_bundle)
    assert found["ANTHROPIC_API_KEY"] == "k"
    assert found["JAVA_TOOL_OPTIONS"].startswith("-Xmx1g ")


@pytest.mark.parametrize(("status", "program"), [(7, ("sh", "-c", "exit 7")), (127, ("no-such-program",))])
def test_the_exit_status_is_the_programs(state: StateDirectory, status: int, program: tuple[str, ...]) -> None:
    """Also when there is no such program."""
    assert ran(state, *program) == status


def test_the_summary_is_on_standard_error(state: StateDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is the program's."""
    assert ran(state, "echo", "hello") == 0
    said = capfd.readouterr()
    assert said.out == "hello\n"
    assert said.err.startswith("wiremeter: nothing of echo was metered")


def test_a_script_gets_json_where_it_wants_it(
    state: StateDirectory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a line of its own behind the program's output, or in a file."""
    assert ran(state, "printf", "no newline", as_json=True) == 0
    first, last = capfd.readouterr().out.splitlines()
    assert first == "no newline"
    assert json.loads(last)["schema"] == "wiremeter.run/1"
    assert ran(state, "true", as_json=True, output=str(tmp_path / "summary")) == 0
    assert json.loads((tmp_path / "summary").read_text())["exit_status"] == 0
    assert capfd.readouterr() == ("", "")


def test_a_summary_that_cannot_be_written_costs_no_work(
    state: StateDirectory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is found out before the program starts."""
    assert ran(state, "touch", str(tmp_path / "ran"), output=str(tmp_path / "none" / "summary")) == 1
    assert "No such file" in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def ledger_of(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put records into the ledger when the program is over, before they are asked for."""

    def put(*clients: Client) -> None:
        settle = run_module._settle

        def then(api: Api, run_id: str, ended_at: datetime) -> int | None:
            with closing(LedgerStore(state.ledger)) as store:
                named = (Client(uid=1, run=run_id) if client.run == "this" else client for client in clients)
                records = (usage_record(str(n), at=moment(), client=client) for n, client in enumerate(named))
                arrivals = [
                    Arrival(source=Source("mitm-0", "e"), seq=n, entry=usage_entry(members_of(each)))
                    for n, each in enumerate(records, 1)
                ]
                store.commit(arrivals)
            return settle(api, run_id, ended_at)

        monkeypatch.setattr(run_module, "_settle", then)

    return put


def test_what_it_used_is_what_carries_its_id(
    state: StateDirectory, ledger_of: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever else works at the same time, under the same label even."""
    ledger_of(Client(uid=1, run="this"), Client(uid=1, label="true"), Client(uid=1, run="01KOTHER"), Client(run="this"))
    assert ran(state, "true", as_json=True) == 0
    assert json.loads(capfd.readouterr().out)["totals"]["requests"] == 2


def test_it_waits_until_nothing_of_it_is_under_way(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By mitm's own word, for a limited time, and says so when it is not over then."""
    monkeypatch.setattr(run_module, "_SETTLE_S", 0.3)

    class Busy(FakeApi):
        def health(self) -> dict[str, Any]:
            found = super().health()
            for each in found["processes"]:
                each["facts"] = {"runs": run_ids, "unacknowledged": 0}
            return found

    class Everything(dict[str, int]):
        def get(self, key: str, default: Any = None) -> Any:
            return 1

    run_ids: Mapping[str, int] = Everything({"": 1})
    api = Busy()
    assert ran(state, "true", api=api) == 0
    assert api.asked > 2
    assert "2 still under way" in capfd.readouterr().err


def test_a_silent_mitm_is_no_word(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only a heartbeat made after the end tells."""
    monkeypatch.setattr(run_module, "_SETTLE_S", 0.3)

    class Old(FakeApi):
        def health(self) -> dict[str, Any]:
            found = super().health()
            for each in found["processes"]:
                each["last_seen"] = "2026-01-01T00:00:00.000000Z"
            return found

    assert ran(state, "true", api=Old()) == 0
    assert "may not be all" in capfd.readouterr().err


def test_a_user_without_the_redirect_is_refused(state: StateDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    """With what makes one; the program is not started, unmetered least of all."""
    assert ran(state, "echo", "started", user="wm-nobody-here") == 1
    said = capfd.readouterr()
    assert "mitm-redirect.sh install --user wm-nobody-here" in said.err
    assert said.out == ""
