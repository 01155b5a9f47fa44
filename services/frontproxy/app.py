"""Opens the parts of the HTTP API in order, joins them, and closes them in reverse."""

import asyncio
import os
from collections.abc import Mapping

from services.bus.addresses import Addresses
from services.bus.beat import Beat
from services.events.identity import UlidSource
from services.events.lifecycle import Missing
from services.frontproxy.backend import Backend
from services.frontproxy.config import FrontproxyConfig
from services.frontproxy.openai_chat import OpenAIChat
from services.frontproxy.server import Server
from services.frontproxy.store import LedgerDesk
from services.runtime.run import VERSION, Process


async def frontproxy(process: Process) -> None:
    """
    Serve until the process is asked to stop.

    Raises:
        ConfigInvalid: A contradiction in the settings.
        StartRefused: The port is in use.
    """
    config = FrontproxyConfig.from_settings(process.settings, process.state)
    addresses = Addresses(config.run)
    backend = Backend(addresses, usage_wait_s=config.usage_wait_s)
    ledger = LedgerDesk(config.ledger)
    server = Server(
        config,
        backend=backend,
        ledger=ledger,
        surfaces=[OpenAIChat()],
        ids=UlidSource(os.urandom(10)),
        logs=process.logs,
    )

    def facts() -> tuple[tuple[Missing, ...], Mapping[str, object]]:
        return ledger.missing(), {"turns": backend.turns_active, "malformed_messages": backend.malformed}

    try:
        await server.serve()
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(backend.run())
            beating = tasks.create_task(Beat(addresses, process.name, VERSION, facts).run())
            await process.stopping.wait()
            # Answers in progress may still end well while the bus is heard.
            await server.close()
            hearing.cancel()
            beating.cancel()
    finally:
        await server.close()
        await backend.close()
        ledger.close()
