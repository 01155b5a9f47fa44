"""What holds for every test."""

import signal

from hypothesis import HealthCheck, settings

# Nothing fails because the machine is busy: no example has a time limit, and making them may take long.
settings.register_profile("wiremeter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wiremeter")

# A shell starts what it puts into the background with these ignored, and every program of the tests would inherit it.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
