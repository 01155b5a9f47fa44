"""`wiremeter run` with real programs and the whole of Wiremeter, without root: every call metered to the token."""

import contextlib
import importlib.util
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.go import FAKES, built
from tests.support.metered import GEMINI, Metered, metered, summary_of
from tests.support.npm import node_from_npm, program_from_npm

pytestmark = [
    pytest.mark.go,
    pytest.mark.skipif(not shutil.which("go"), reason="the Go toolchain is not installed"),
]
MODEL = "gemini-3-flash"
WHOLE = f"https://{GEMINI}/v1beta/models/{MODEL}:generateContent"
STREAM = f"https://{GEMINI}/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
CURL = ("curl", "-sS", "-N", "-o", "/dev/null", "-H", "Content-Type: application/json", "-d")
PYTHON = {
    "urllib": "from urllib.request import *; urlopen(Request(url, body, {'Content-Type': 'a/b'})).read()",
    "requests": "import requests; requests.post(url, body).raise_for_status()",
    "httpx2": "import httpx2; httpx2.post(url, content=body).raise_for_status()",
    "aiohttp": """
import aiohttp, asyncio
async def ask():
    async with aiohttp.ClientSession(trust_env=True) as session, session.post(url, data=body) as answer:
        await answer.read()
asyncio.run(ask())
""",
}
FETCH = "const a = await fetch(URL_, {method: 'POST', body: BODY}); await a.text(); console.log(a.status)"
BUN_VERSION, DENO_VERSION = "1.4.4", "2.9.6"


def body_of(prompt: str = "Hello") -> str:
    return json.dumps({"contents": [{"role": "user", "parts": [{"text": prompt}]}]})


def fetch(url: str) -> str:
    return FETCH.replace("URL_", json.dumps(url)).replace("BODY", json.dumps(body_of()))


def python_program(client: str) -> tuple[str, ...]:
    if importlib.util.find_spec(client) is None:
        pytest.skip(f"{client} is not installed")
    return sys.executable, "-c", f"url = {STREAM!r}; body = {body_of().encode()!r}\n{PYTHON[client]}"


def go_program() -> tuple[str, ...]:
    return str(built("go_client")), STREAM


def node_program() -> tuple[str, ...]:
    return node_from_npm(), "--input-type=module", "-e", fetch(STREAM)


def bun_program() -> tuple[str, ...]:
    _, bun = program_from_npm("bun", BUN_VERSION)
    return bun, "-e", fetch(STREAM)


def deno_program() -> tuple[str, ...]:
    return *program_from_npm("deno", DENO_VERSION), "eval", fetch(STREAM)


def java_program() -> tuple[str, ...]:
    if not shutil.which("javac"):
        pytest.skip("no JDK is installed")
    return "java", str(FAKES / "JavaClient.java"), STREAM


CLIENTS = {
    "curl": lambda: (*CURL, body_of(), STREAM),
    **{name: (lambda name=name: python_program(name)) for name in PYTHON},
    "go": go_program,
    "node": node_program,
    "bun": bun_program,
    "deno": deno_program,
    "java": java_program,
}
_NODE = {"node", "bun", "deno"}


@pytest.fixture(scope="module")
def system() -> Iterator[Metered]:
    with metered() as running:
        yield running


def sums_of(answers: list[dict[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for answer in answers:
        found.update(answer["counts"])
    return found


@pytest.mark.parametrize(
    "client", [pytest.param(name, marks=[pytest.mark.node] if name in _NODE else []) for name in CLIENTS]
)
def test_every_runtime_is_metered_to_the_token(system: Metered, client: str, tmp_path: Path) -> None:
    """By the variables that it honours; the record says who it was."""
    program = CLIENTS[client]()
    before = len(system.provider.answers())
    done = system.run(*program, label=f"a {client}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = summary_of(done)
    answers = system.provider.answers(after=before)
    assert len(answers) == 1, done.stderr
    assert (found["is_complete"], found["totals"]["usage"]) == (True, answers[0]["counts"])
    assert [row["model"] for row in found["by_model"]] == [MODEL]
    [record] = system.records_of(found["run"])
    assert record["response_id"] == answers[0]["response_id"]
    who = record["client"]
    assert (who["label"], who["uid"], who["cwd"]) == (f"a {client}", os.getuid(), str(tmp_path))
    assert Path(f"/proc/{who['pid']}").name.isdigit() and who["executable"]


def test_children_belong_to_the_run(system: Metered) -> None:
    """Agents start other programs: all that they start is theirs."""
    before = len(system.provider.answers())
    call = " ".join(f"'{word}'" for word in (*CURL, body_of(), WHOLE))
    found = summary_of(system.run("sh", "-c", f"{call} & {call}; wait; {call}"))
    assert found["totals"]["requests"] == 3
    assert found["totals"]["usage"] == dict(sums_of(system.provider.answers(after=before)))


def test_a_client_that_loses_its_credentials_is_still_known(system: Metered) -> None:
    """mitm finds the name in the environment that the program was started with."""
    program = ("sh", "-c", 'HTTPS_PROXY=$(echo "$HTTPS_PROXY" | sed "s,//.*@,//,") exec "$@"', "sh")
    found = summary_of(system.run(*program, *CURL, body_of(), WHOLE, label="nameless"))
    [record] = system.records_of(found["run"])
    assert (record["client"]["label"], found["totals"]["requests"]) == ("nameless", 1)


def test_several_runs_at_once_do_not_mix(system: Metered) -> None:
    """Under one label even: each has the sums of its own calls."""

    def ask(number: int) -> tuple[list[str], dict[str, Any]]:
        prompt = "word " * (10 * number)
        orders = " & ".join(
            " ".join(f"'{word}'" for word in (*CURL, body_of(f"{prompt}{each} [[delay 20ms]]"), STREAM))
            for each in range(number)
        )
        found = summary_of(system.run("sh", "-c", f"{orders} & wait", label="same"))
        return [record["response_id"] for record in system.records_of(found["run"])], found

    before = len(system.provider.answers())
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(ask, [1, 2, 3, 4]))
    answers = {answer["response_id"]: answer for answer in system.provider.answers(after=before)}
    assert [len(ids) for ids, _ in runs] == [1, 2, 3, 4]
    for ids, found in runs:
        assert found["totals"]["usage"] == dict(sums_of([answers.pop(each) for each in ids]))
    assert not answers


def test_people_see_a_table_behind_the_programs_own_words(system: Metered) -> None:
    """On standard error; standard output is untouched, and the exit status kept."""
    call = " ".join(f"'{word}'" for word in (*CURL, body_of(), WHOLE))
    done = system.run("sh", "-c", f"{call}; echo out; echo err >&2; exit 9", options=())
    assert (done.returncode, done.stdout) == (9, "out\n")
    lines = done.stderr.splitlines()
    assert lines[0] == "err"
    assert lines[1] == "wiremeter: sh used, as sh:"
    assert lines[2].split() == ["model", "provider", "requests", "input", "cached", "output", "reasoning"]
    assert lines[3].split()[:3] == [MODEL, "gcp.gemini", "1"]


def test_a_broken_off_answer_is_a_bound(system: Metered) -> None:
    """The provider breaks the stream; what was seen counts, and the summary says what it is worth."""
    found = summary_of(system.run(*CURL, body_of("[[cut 2]]"), STREAM))
    assert (found["exit_status"] != 0, found["totals"]["bounds"]) == (True, 1)


def test_an_answer_that_is_interrupted_leaves_its_record(system: Metered) -> None:
    """Ctrl-C's signal in mid-stream: the program dies of it, we look as if we had, and what was seen is there."""
    before = len(system.provider.requests())
    process = subprocess.Popen(
        system.command(*CURL, body_of("[[events 50]] [[delay 100ms]]"), STREAM, options=("--json",)),
        cwd=system.copy.root,
        env=system.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    system.provider.requests(after=before, at_least=1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    found = json.loads(out)
    assert (found["signal"], found["exit_status"], found["totals"]["requests"]) == (signal.SIGINT, 130, 1)
    [record] = system.records_of(found["run"])
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "client")


def test_what_goes_on_after_the_end_is_said_to_be_missing(system: Metered) -> None:
    """A child that was left behind is still asking: its tokens are not in the sums, and that is told."""
    call = " ".join(f"'{word}'" for word in (*CURL, body_of("[[events 60]] [[delay 100ms]]"), STREAM))
    before = len(system.provider.requests())
    process = subprocess.Popen(
        system.command("sh", "-c", f"{call} & read line", options=("--json",)),
        cwd=system.copy.root,
        env=system.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    system.provider.requests(after=before, at_least=1)
    out, _ = process.communicate("\n", timeout=30)
    found = json.loads(out)
    assert (found["is_complete"], found["under_way"], found["totals"]["requests"]) == (False, 1, 0)
    late = eventually("its record comes later", lambda: system.records_of(found["run"]), timeout_s=20)
    assert late[0]["outcome"] == "ok"


def test_nothing_metered_is_no_zero(system: Metered) -> None:
    """It says so, and why that may be."""
    done = system.run("true", options=())
    assert "nothing of true was metered" in done.stderr


def test_standard_input_is_the_programs(system: Metered) -> None:
    """Every byte of it."""
    done = system.run("cat", options=(), stdin="one\ntwo")
    assert done.stdout == "one\ntwo"


def test_at_a_terminal_the_program_has_it(system: Metered) -> None:
    """It is a terminal to it, Ctrl-C is its own, and the summary comes below."""
    master, slave = pty.openpty()
    program = (
        "test -t 0 && test -t 1 || exit 8; trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    )
    process = subprocess.Popen(
        ["setsid", "--ctty", *system.command("sh", "-c", program)],
        cwd=system.copy.root,
        env=system.environ,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = ""

    def has(text: str) -> bool:
        nonlocal seen
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            seen += os.read(master, 65536).decode()
        return text in seen

    os.set_blocking(master, False)
    eventually("the program runs", lambda: has("ready"), timeout_s=30)
    os.write(master, b"\x03")
    eventually("the summary", lambda: has("nothing of sh was metered"), timeout_s=30)
    assert process.wait(30) == 5
    assert seen.count("caught") == 1
    os.close(master)


def test_without_a_running_wiremeter_nothing_is_started(tmp_path: Path) -> None:
    """Status 3, the program unstarted."""
    environ = {**os.environ, "WIREMETER_HOME": str(tmp_path), "WIREMETER_FRONTPROXY_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "run", "--", "touch", str(tmp_path / "ran")],
        cwd=FAKES.parents[1],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "make run" in done.stderr and not (tmp_path / "ran").exists()
