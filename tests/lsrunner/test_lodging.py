"""Where the language server lives: decisions from what the probes said."""

from pathlib import Path

import pytest

from services.lsrunner.lodging import (
    Account,
    CanaryAnswer,
    Command,
    Lodging,
    Way,
    as_account,
    coverage_problem,
    end_of,
    guarded,
    holds_connection,
    inherited_variables,
    sudo_problem,
)

CAUGHT = CanaryAnswer(arrived=True, error=None, udp_refused=True)
REFUSED = CanaryAnswer(arrived=False, error="Connection refused", udp_refused=False)
# Captured from /proc/net/tcp: a listener at 127.0.0.1:8742 and a connection from port 45678 to it.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2226 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0
   1: 0100007F:2226 0100007F:B26E 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0
"""


@pytest.mark.parametrize(
    ("status", "stderr", "problem"),
    [
        (0, "", None),
        (0, "sudo: unable to resolve host box: Name or service not known\n", None),
        (1, "sudo: unknown user nobody-here\nsudo: error initializing audit plugin\n", "the user ls does not exist"),
        (
            1,
            "sudo: unable to resolve host box: Name or service not known\nsudo: a password is required\n",
            "sudo does not let this user run programs as ls (a password is required)",
        ),
        (
            1,
            "Sorry, user u is not allowed to execute '/usr/bin/env true' as ls on box.\n",
            (
                "sudo does not let this user run programs as ls"
                " (Sorry, user u is not allowed to execute '/usr/bin/env true' as ls on box.)"
            ),
        ),
        (127, "", "sudo -u ls failed (status 127)"),
    ],
)
def test_the_failures_of_sudo_are_told_apart(status, stderr, problem):
    """Each needs something else to be done."""
    assert sudo_problem("ls", status, stderr) == problem


@pytest.mark.parametrize(
    ("answers", "has_ipv6", "problem"),
    [
        ({"127.0.0.1": CAUGHT, "::1": CAUGHT}, True, None),
        ({"127.0.0.1": CAUGHT, "::1": REFUSED}, False, None),
        (
            {"127.0.0.1": CAUGHT, "::1": REFUSED},
            True,
            "IPv6 port 443 is not redirected to mitm (Connection refused)",
        ),
        ({"127.0.0.1": CAUGHT}, True, "IPv6 port 443 is not redirected to mitm (the connection went elsewhere)"),
        (
            {"127.0.0.1": CanaryAnswer(arrived=False, error=None, udp_refused=True), "::1": CAUGHT},
            True,
            "IPv4 port 443 is not redirected to mitm (the connection went elsewhere)",
        ),
        (
            {"127.0.0.1": CanaryAnswer(arrived=True, error=None, udp_refused=False), "::1": CAUGHT},
            True,
            "IPv4 UDP port 443 is open, QUIC would go past the meter",
        ),
    ],
)
def test_covered_is_what_has_no_way_past_the_meter(answers, has_ipv6, problem):
    """Both families, and QUIC; a server of someone else's on port 443 is no proof."""
    assert coverage_problem(answers, has_ipv6) == problem


def test_a_connection_is_found_by_its_two_ports():
    """mitm's as the local one, the canary's as the remote one."""
    assert holds_connection(TABLE, 8742, 45678)
    assert not holds_connection(TABLE, 45678, 8742)
    assert not holds_connection(TABLE, 8742, 45679)
    assert not holds_connection("", 8742, 45678)


def test_another_user_gets_variables_through_env():
    """sudo keeps none of ours, and its rule allows env only."""
    account = Account(user="ls", uid=998, sudo=True)
    command = as_account(account, {"A": "b c"}, ["program", "x"])
    assert command.argv == ("/usr/bin/sudo", "-n", "-u", "ls", "--", "/usr/bin/env", "A=b c", "program", "x")
    assert "A" not in command.environ


def test_the_current_user_gets_them_in_the_environment():
    """Where no other user can read them."""
    account = Account(user="me", uid=1000, sudo=False)
    assert as_account(account, {"A": "b"}, ["program"]) == Command(argv=("program",), environ={"A": "b"})


def test_the_guard_stands_in_front():
    """With the grace and the directory to work in."""
    lodging = Lodging(
        account=Account(user="ls", uid=998, sudo=True),
        way=Way.REDIRECT,
        python="/usr/bin/python3",
        home=Path("/h"),
        workspace=Path("/h/w"),
    )
    assert guarded(lodging, Path("/s/guard.py"), ["p", "x"], keeps_stdin=True) == (
        *("/usr/bin/python3", "-IS", "/s/guard.py", "relay", "5", "/h/w"),
        *("p", "x"),
    )


def test_another_proxy_or_trust_is_not_inherited():
    """It would lead past the meter; API keys of the user's own are."""
    environ = {"ALL_PROXY": "x", "http_proxy": "x", "SSL_CERT_DIR": "x", "WIREMETER_HOME": "x", "GEMINI_API_KEY": "k"}
    assert inherited_variables(environ) == {"GEMINI_API_KEY": "k"}


@pytest.mark.parametrize(
    ("status", "started", "line", "words"),
    [
        (1, False, "sudo: a password is required", "the program was not started: a password is required"),
        (
            127,
            False,
            "wiremeter-guard: cannot start: /p: No such file or directory",
            "the program was not started: cannot start: /p: No such file or directory",
        ),
        (3, True, "", "it ended with status 3"),
        (137, True, "", "it was ended by signal 9"),
        (-9, True, "", "sudo or the guard was killed by signal 9"),
        (1, False, "", "the program was not started (status 1)"),
    ],
)
def test_the_ways_to_end_are_told_apart(status, started, line, words):
    """Sudo's own refusal has the status of many a program."""
    assert end_of(status, started, line) == words
