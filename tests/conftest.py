"""What holds for every test."""

import signal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Nothing fails because the machine is busy: no example has a time limit, and making them may take long.
settings.register_profile("wiremeter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wiremeter")

# A shell starts what it puts into the background with these ignored, and every program of the tests would inherit it.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# What uses the machine itself: its users, its process table, supervisord, much of its memory. One at a time.
_OF_THE_MACHINE = ("tests/processes/", "tests/scripts/", "tests/support/", "tests/lsrunner/test_probe.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let each worker take a file at a time, whose tests share what it has set up; and one what is of the machine."""
    from xdist.scheduler.loadfile import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "the machine" if nodeid.startswith(_OF_THE_MACHINE) else super()._split_scope(nodeid)

    return Scheduling(config, log)
