"""The command line of `wiremeter`, to values."""

import argparse
from collections.abc import Sequence
from datetime import datetime

from services.ledger.window import LedgerQueryInvalid, moment_from
from services.runtime.environment import LABEL_LETTERS_MAX

_EPILOG = """exit status: 0 done, 1 failed, 2 wrong arguments, 3 not running, 78 a mistake in the configuration"""
_RUN_EPILOG = """exit status: the program's; 1, 3 and 78 also when it was not started, 126 and 127 when it cannot be"""


def parsed(arguments: Sequence[str], now: datetime) -> argparse.Namespace:
    """Read a command line. What follows the first `--` is the program of `run`, whatever it looks like."""
    reader = parser(now)
    if "--" not in arguments or arguments[0] != "run":
        chosen = reader.parse_args(arguments)
    else:
        cut = arguments.index("--")
        chosen = reader.parse_args(arguments[:cut])
        # `run git log -- file`: the program has begun before, and the dashes are its own.
        chosen.program += arguments[cut:] if chosen.program else arguments[cut + 1 :]
    if chosen.command == "run" and not chosen.program:
        reader.error("run needs a program: wiremeter run -- COMMAND [ARGUMENT …]")
    return chosen


def parser(now: datetime) -> argparse.ArgumentParser:
    """Make the parser; times such as `24h` are counted back from `now`."""
    top = argparse.ArgumentParser(
        prog="wiremeter",
        description="Shows what an AI language server or coding agent on this machine really spends.",
        epilog=_EPILOG,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in (
        ("up", "start everything, send one prompt, show what it cost"),
        ("down", "stop everything"),
        ("status", "show the processes, as supervisord sees them"),
        ("health", "show the processes, as they see themselves; 0 when none misses anything"),
        ("check-config", "show every mistake in the configuration"),
    ):
        commands.add_parser(name, help=what, description=what.capitalize() + ".", epilog=_EPILOG)
    _add_usage(commands.add_parser("usage", help="show what was spent, by model", epilog=_EPILOG), now)
    _add_run(commands.add_parser("run", help="run any program metered, show what it used", epilog=_RUN_EPILOG))
    _add_tail(commands.add_parser("tail", help="show what is being spent, as it happens", epilog=_EPILOG))
    return top


def _add_usage(command: argparse.ArgumentParser, now: datetime) -> None:
    command.description = "Show what was spent, by model, from the ledger: whether or not Wiremeter is running."

    def time(text: str) -> datetime:
        try:
            return moment_from(text, now)
        except LedgerQueryInvalid as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    times = "2026-01-31, 2026-01-31T12:00:00Z, or back from now: 90m, 24h, 7d"
    command.add_argument("--since", type=time, metavar="TIME", help=f"from then on: {times}")
    command.add_argument("--until", type=time, metavar="TIME", help="before then")
    command.add_argument("--json", action="store_true", help="the whole report, as GET /v1/usage gives it")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.usage = "wiremeter run [--label NAME] [--as USER] [--json] [--output PATH] -- COMMAND [ARGUMENT …]"
    command.description = (
        "Run a program so that its calls to models are metered, and show what it used when it ends, on standard error."
        " Its terminal, signals, standard streams and exit status are its own. docs/agents.md has what works with what."
    )
    command.add_argument(
        "--label", type=_label, metavar="NAME", help="its name in the records (default: the program's)"
    )
    command.add_argument("--as", dest="user", metavar="USER", help="run as this user, by the redirect of its port 443")
    command.add_argument("--json", action="store_true", help="the summary as one JSON object, on standard output")
    command.add_argument("--output", metavar="PATH", help="the summary there instead; - is standard output")
    command.add_argument("program", nargs=argparse.REMAINDER, metavar="COMMAND", help="and its arguments")


def _label(text: str) -> str:
    if not text or not text.isprintable() or ":" in text or len(text) > LABEL_LETTERS_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r}; 1 to {LABEL_LETTERS_MAX} printable letters without ':' are allowed"
        )
    return text


def _add_tail(command: argparse.ArgumentParser) -> None:
    command.description = "Show each record of the usage topic on a line of its own, until interrupted."
    command.add_argument("--json", action="store_true", help="the records as they are, one JSON object per line")
    command.add_argument("--count", type=_positive, metavar="N", help="end after N records")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; a whole number above 0 is allowed")
    return int(text)
