"""Turns on the bus: accepted, answered, cancelled, late, too many."""

import uvloop

from tests.support.lsrunner import acp, running


def test_a_cancelled_turn_ends_at_the_language_server():
    """Which then answers the next one; a turn that waits is withdrawn."""

    async def story():
        async with running(acp()) as (runner, asker):
            await runner.in_state("ready")
            await asker.ask("T1", "slow")
            await runner.heard("a first word", lambda topic, m: topic == "turn.T1" and m.get("text") == "started")
            await asker.ask("T2", "echo waiting")
            asker.cancel("T2")
            assert (await asker.end_of("T2"))["stop_reason"] == "cancelled"
            asker.cancel("T1")
            assert (await asker.end_of("T1"))["stop_reason"] == "cancelled"
            await asker.ask("T3", "echo on")
            await asker.end_of("T3")
            assert asker.text_of("T3") == "s2#1:on"

    uvloop.run(story())


def test_a_turn_ends_at_its_deadline():
    """Also when the agent does not listen to a cancellation; the next turn has another session."""

    async def story():
        async with running(acp()) as (runner, asker):
            await runner.in_state("ready")
            await asker.ask("T1", "slow", deadline_s=0.5)
            failed = await asker.end_of("T1")
            assert (failed["kind"], failed["message"]) == ("timeout", "the turn took longer than its deadline")
            await asker.ask("T2", "echo on")
            await asker.end_of("T2")

    uvloop.run(story())


def test_one_turn_more_than_fits_is_refused_as_busy():
    """The others are answered."""

    async def story():
        async with running(acp(WIREMETER_LSRUNNER_QUEUE_MAX="1")) as (runner, asker):
            await runner.in_state("ready")
            await asker.ask("T1", "slow")
            await asker.ask("T2", "echo later")
            await asker.ask("T3", "echo never")
            failed = await asker.end_of("T3")
            assert (failed["kind"], failed["number"]) == ("busy", 0)
            asker.cancel("T1")
            assert (await asker.end_of("T2"))["stop_reason"] == "end"

    uvloop.run(story())
