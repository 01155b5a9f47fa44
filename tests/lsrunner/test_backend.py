"""One life of the language server after another, in the real process."""

import os
import signal
import sys

import uvloop

from services.bus.addresses import Addresses
from services.bus.subscriber import Subscriber
from tests.support.lsrunner import SIMULATED, acp, as_setting, make_certificates, running


def test_everything_may_start_in_any_order():
    """Certificates and proxy come later: until then the runner says what it waits for."""

    async def story():
        async with running(SIMULATED, certificates=False, tunnel=False) as (runner, _asker):
            bundle = await runner.in_state(
                "starting", detail=_waiting(f"{runner.state.trust_bundle}, which mitm writes")
            )
            assert bundle["pid"] is None
            make_certificates(runner.state)
            await runner.in_state("starting", detail=_waiting(f"mitm at port {runner.tunnel.port}"))
            await runner.tunnel.open()
            await runner.in_state("ready")

    uvloop.run(story())


def _waiting(what: str) -> str:
    return f"waiting for {what}; the simulated language server answers: no real one is used, and no provider"


def test_a_language_server_that_is_killed_comes_back():
    """Its turn fails with the reason; the next one is answered."""

    async def story():
        async with running(acp()) as (runner, asker):
            await runner.in_state("ready")
            first = runner.child_pid()
            await asker.ask("T1", "slow")
            await runner.heard("a first word", lambda topic, m: topic == "turn.T1" and m.get("text") == "started")
            since = len(runner.messages)
            os.kill(first, signal.SIGKILL)
            failed = await asker.end_of("T1")
            assert failed["kind"] == "internal"
            assert "ended" in failed["message"]
            await runner.in_state("backing_off", since)
            state = await runner.in_state("ready", since, restarts=1)
            assert state["pid"] not in (None, first)
            await asker.ask("T2", "echo back")
            await asker.end_of("T2")
            assert asker.text_of("T2") == "s1#1:back"

    uvloop.run(story())


def test_a_program_that_does_not_exist_is_tried_again_and_named():
    """The runner itself lives on."""

    async def story():
        settings = {"WIREMETER_LSRUNNER_PROFILE": "command", "WIREMETER_LSRUNNER_COMMAND": as_setting(["/no/such"])}
        async with running(settings) as (runner, asker):
            state = await runner.in_state("backing_off")
            assert state["detail"] == ("the program was not started: cannot start: /no/such: No such file or directory")
            await runner.in_state("backing_off", restarts=1)
            await asker.ask("T1", "hello")
            assert (await asker.end_of("T1"))["kind"] == "invalid"

    uvloop.run(story())


def test_a_program_that_fails_is_told_with_its_status_and_last_line():
    """Before it was ready there was no prompt that its log could quote."""

    async def story():
        program = as_setting([sys.executable, "-c", "import sys; sys.exit('no licence')"])
        settings = {"WIREMETER_LSRUNNER_PROFILE": "acp", "WIREMETER_LSRUNNER_COMMAND": program}
        async with running(settings) as (runner, asker):
            state = await runner.in_state("backing_off")
            assert state["detail"] == "it ended with status 1; its last line: no licence"
            await asker.ask("T1", "hello")
            failed = await asker.end_of("T1")
            assert failed["kind"] == "not_ready"
            assert "no licence" in failed["message"]

    uvloop.run(story())


def test_a_program_that_never_becomes_ready_is_ended():
    """After the time that the settings give it."""

    async def story():
        async with running(acp("--mute", WIREMETER_LSRUNNER_START_TIMEOUT_S="1")) as (runner, _asker):
            state = await runner.in_state("backing_off")
            assert state["detail"] == "it was not ready within 1 s; last: the agent is greeted"

    uvloop.run(story())


def test_what_a_language_server_logs_never_reaches_our_log():
    """It may quote prompts; the runner logs counts."""

    async def story():
        async with running(acp()) as (runner, asker):
            await runner.in_state("ready")
            await asker.ask("T1", "die for the secret prompt")
            failed = await asker.end_of("T1")
            assert (
                failed["message"] == "the language server has ended in the middle of the turn: it ended with status 9"
            )
            await runner.in_state("backing_off")
            assert "secret" not in runner.log()
            assert '"log_lines":' in runner.log()

    uvloop.run(story())


def test_without_the_wanted_user_it_runs_as_the_current_one_and_says_so():
    """In every heartbeat."""

    async def story():
        async with running(SIMULATED | {"WIREMETER_LSRUNNER_USER": "no-such-user"}) as (runner, _asker):
            subscriber = Subscriber(bind=[Addresses(runner.state.run).health], topics=["health."])
            try:
                await runner.in_state("ready")
                async for topic, beat in subscriber:
                    assert topic == "health.lsrunner"
                    missing = {each["what"]: each["detail"] for each in beat["missing"]}
                    if "language_server" not in missing:
                        break
                assert "no-such-user does not exist" in missing["user"]
                assert "real_language_server" in missing
            finally:
                subscriber.close()

    uvloop.run(story())
