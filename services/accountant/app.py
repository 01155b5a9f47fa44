"""Opens the parts of the accountant in order, joins them, and closes them in reverse."""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack

from services.accountant.attribution import Attribution
from services.accountant.config import AccountantConfig
from services.accountant.ingest import Ingest
from services.accountant.intake import Intake, read_message
from services.bus.addresses import (
    EXCHANGE_TOPIC,
    HELLO_TOPIC,
    LS_STATE_TOPIC,
    TURN_TOPIC,
    Addresses,
    EndpointTaken,
)
from services.bus.beat import Beat
from services.bus.publisher import Publisher
from services.bus.subscriber import Subscriber
from services.events.codec import EventInvalid, decode
from services.events.lifecycle import LanguageServerState, Missing
from services.events.turn import TurnAccepted, TurnDone, TurnFailed
from services.runtime.run import VERSION, Process, StartRefused

# Several publishers with a window each, and a second of what they send again.
_EXCHANGE_HIGH_WATER_MARK = 8192
# A subscriber that is this many records behind has left; one record is about a kilobyte.
_USAGE_HIGH_WATER_MARK = 16384
# Taken and not yet committed: some megabytes.
_PENDING_RECORDS_MAX = 20_000
_HEARD = {kind.SCHEMA: kind for kind in (LanguageServerState, TurnAccepted, TurnDone, TurnFailed)}


async def accountant(process: Process) -> None:
    """Serve until the process is asked to stop."""
    config = AccountantConfig.from_settings(process.settings, process.state)
    addresses = Addresses(config.run_directory)
    attribution = Attribution()
    with ExitStack() as parts:
        try:
            usage = Publisher(
                bind=[config.usage_endpoint, addresses.usage], high_water_mark=_USAGE_HIGH_WATER_MARK, linger_ms=500
            )
            parts.callback(usage.close)
        except EndpointTaken as error:
            raise StartRefused(f"{error}; accountant.usage_endpoint sets another") from error
        try:
            marks = Publisher(bind=[addresses.mark])
            parts.callback(marks.close)
            exchanges = Subscriber(
                bind=[addresses.exchange],
                topics=[EXCHANGE_TOPIC, HELLO_TOPIC],
                high_water_mark=_EXCHANGE_HIGH_WATER_MARK,
                read=read_message,
            )
            parts.callback(exchanges.close)
        except EndpointTaken as error:
            raise StartRefused(str(error)) from error
        turns = Subscriber(connect=[addresses.turn], topics=[TURN_TOPIC, LS_STATE_TOPIC])
        parts.callback(turns.close)
        ingest = Ingest(
            ledger=config.ledger,
            intake=Intake(attribution, pending_max=_PENDING_RECORDS_MAX),
            exchanges=exchanges,
            marks=marks,
            usage=usage,
            commit_interval_s=config.commit_interval_s,
            batch_records_max=config.batch_records_max,
            logs=process.logs,
        )
        parts.callback(ingest.close)

        def health() -> tuple[tuple[Missing, ...], Mapping[str, object]]:
            trouble = () if ingest.problem is None else (Missing(what="ledger", detail=ingest.problem),)
            return trouble, ingest.facts()

        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(ingest.run()),
                tasks.create_task(_follow_turns(turns, attribution)),
                tasks.create_task(Beat(addresses, process.name, VERSION, health).run()),
            ]
            process.logs.info("listener.opened", endpoint=config.usage_endpoint)
            await process.stopping.wait()
            for task in running:
                task.cancel()


async def _follow_turns(turns: Subscriber, attribution: Attribution) -> None:
    async for _, members in turns:
        kind = _HEARD.get(str(members.get("schema")))
        if kind is None:
            continue  # pieces of an answer are none of our business
        try:
            attribution.hear(decode(kind, members))
        except EventInvalid:
            turns.malformed += 1
