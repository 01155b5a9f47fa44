"""`wiremeter tail`: what is being spent, as it happens, from the public usage topic."""

import asyncio
import socket
import sys

import orjson

from services.bus.addresses import USAGE_TOPIC
from services.bus.subscriber import Subscriber
from services.cli.lines import heading, line
from services.cli.process import ProcessTree, problem_once_started
from services.cli.status import NOT_RUNNING, what_to_do
from services.runtime.settings import loopback_tcp

_CONNECT_TIMEOUT_S = 5.0


def tail(endpoint: str, tree: ProcessTree, *, as_json: bool, count: int | None) -> int:
    """Print each record of the topic, for ever or until there were `count`; return the exit status."""
    # A subscriber waits for ever for a publisher that is not there, without a word.
    problem = problem_once_started(tree, lambda: _problem_with(endpoint))
    if problem is not None:
        print(f"{endpoint}: {problem}\n{what_to_do(tree)}", file=sys.stderr)
        return NOT_RUNNING
    if not as_json:
        print(heading(), flush=True)
    asyncio.run(_follow(endpoint, as_json=as_json, count=count))
    return 0


def _problem_with(endpoint: str) -> str | None:
    """Return why nobody publishes there, None if somebody listens."""
    address = loopback_tcp(endpoint)
    assert address is not None  # the configuration was checked
    try:
        socket.create_connection(address, _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


async def _follow(endpoint: str, *, as_json: bool, count: int | None) -> None:
    subscriber = Subscriber(connect=[endpoint], topics=[USAGE_TOPIC])
    seen, last_seq = 0, None
    try:
        async for _, record in subscriber:
            _report_gap(last_seq, record.get("seq"))
            last_seq = record.get("seq")
            print(orjson.dumps(record).decode() if as_json else line(record), flush=True)
            seen += 1
            if seen == count:
                return
    finally:
        subscriber.close()


def _report_gap(last: object, now: object) -> None:
    """The topic does not wait for slow subscribers; the ledger's numbers show what was missed."""
    if isinstance(last, int) and isinstance(now, int) and now > last + 1:
        missed = now - last - 1
        print(f"{missed} missed; GET /v1/usage/events?after={last} has them", file=sys.stderr)
