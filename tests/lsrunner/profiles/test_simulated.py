"""The simulated language server, its provider and the tunnel between them, all real processes and sockets."""

import uvloop

from tests.support.lsrunner import SIMULATED, running


def test_the_simulated_profile_answers_through_the_proxy():
    """Prompt to answer over real TLS; plainly a simulation; a follow-up stays in its conversation."""

    async def story():
        async with running(SIMULATED) as (runner, asker):
            state = await runner.in_state("ready")
            assert "no real one is used" in state["detail"]
            assert [model["id"] for model in state["models"]] == ["simulated-flash", "simulated-pro"]
            assert state["way"] == "connect"
            assert "Basic c2ltdWxhdGVkOg==" in runner.tunnel.asked[0]  # simulated:
            await asker.ask("T1", "Hello", model="simulated-pro")
            done = await asker.end_of("T1")
            assert (done["stop_reason"], len(done["response_ids"])) == ("end", 2)
            assert asker.text_of("T1").startswith("This is Wiremeter's simulated model simulated-pro.")
            assert asker.text_of("T1", "thinking")
            await asker.ask("T2", "Hello", asker.text_of("T1"), "and again")
            assert (await asker.end_of("T2"))["conversation_id"] == done["conversation_id"]
            await asker.ask("T3", "please simulate error 429")
            failed = await asker.end_of("T3")
            assert (failed["kind"], failed["status"]) == ("upstream", 429)

    uvloop.run(story())


def test_turns_at_once_do_not_mix():
    """The simulated language server tells four turns apart."""

    async def story():
        async with running(SIMULATED) as (runner, asker):
            await runner.in_state("ready")
            for n in range(6):
                await asker.ask(f"T{n}", "x" * (n + 1))
            for n in range(6):
                assert (await asker.end_of(f"T{n}"))["stop_reason"] == "end"
                assert f"Your prompt has {n + 1} characters" in asker.text_of(f"T{n}")

    uvloop.run(story())
