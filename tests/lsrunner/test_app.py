"""The runner as a process: how it ends, and what ends with it."""

import uvloop

from tests.lsrunner.test_guard import has_gone, lives
from tests.support.lsrunner import SIMULATED, acp, running


def test_a_killed_runner_takes_the_language_server_with_it():
    """SIGKILL, which nobody can handle."""

    async def story():
        async with running(SIMULATED) as (runner, _asker):
            await runner.in_state("ready")
            pid = runner.child_pid()
            runner.process.kill()
            has_gone(pid)

    uvloop.run(story())


def test_a_runner_that_is_asked_to_stop_ends_the_language_server_first():
    """And fails the turns that run."""

    async def story():
        async with running(acp()) as (runner, asker):
            await runner.in_state("ready")
            pid = runner.child_pid()
            await asker.ask("T1", "slow")
            runner.process.terminate()
            failed = await asker.end_of("T1")
            assert (failed["kind"], failed["message"]) == ("internal", "wiremeter is stopping")
            assert await runner.process.wait() == 0
            assert not lives(pid)

    uvloop.run(story())
