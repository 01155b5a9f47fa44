"""
One command from arguments to exit status: reads the configuration, joins the parts, gives them to the command.

What the user cannot mend by reading is a traceback; everything else is one line on stderr.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from services.cli import check_config, down, health, status, tail, up, usage
from services.cli.arguments import parsed
from services.cli.process import ProcessTree
from services.cli.run import Order, run
from services.cli.upstream import Api
from services.runtime.settings import CHECKOUT, EXIT_CONFIG, ConfigInvalid, read_settings
from services.runtime.state import StateDirectory, StateUnusable


def command(arguments: Sequence[str], environ: Mapping[str, str], now: datetime) -> int:
    """Run one command; return its exit status."""
    chosen = parsed(arguments, now)
    state, tree = StateDirectory.from_environ(environ), ProcessTree(CHECKOUT)
    if chosen.command == "down":
        # No mistake in the configuration may keep anybody from stopping what runs.
        return down.down(state, tree)
    try:
        settings = read_settings(environ)
    except ConfigInvalid as error:
        return check_config.report(error.problems)
    api = Api(settings.frontproxy.port)
    try:
        match chosen.command:
            case "up":
                state.make()
                return up.up(settings, state, tree, api)
            case "status":
                return status.status(settings, state, tree)
            case "health":
                return health.health(tree, api)
            case "usage":
                return usage.usage(state.ledger, since=chosen.since, until=chosen.until, as_json=chosen.json)
            case "tail":
                return tail.tail(settings.accountant.usage_endpoint, tree, as_json=chosen.json, count=chosen.count)
            case "run":
                order = Order(
                    program=chosen.program,
                    label=chosen.label,
                    user=chosen.user,
                    as_json=chosen.json,
                    output=chosen.output,
                )
                return run(order, settings, state, tree, api, environ)
            case _:
                return check_config.report([], settings.file)
    except StateUnusable as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        # The reader of our output has seen enough (`wiremeter tail | head`); what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print(file=sys.stderr)
        return 128 + signal.SIGINT
