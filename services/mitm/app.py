"""Opens the parts of a mitm worker in order, joins them, and closes them in reverse."""

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from services.bus.addresses import Addresses
from services.bus.beat import Beat
from services.bus.journal import Journal
from services.bus.publisher import ExchangePublisher
from services.dialects.model_names import ModelNames
from services.events.identity import UlidSource
from services.events.lifecycle import Missing
from services.mitm.config import SIMULATED_HOST, HostList, MitmConfig
from services.mitm.convoy import Convoy
from services.mitm.keystore import Keystore
from services.mitm.observation import ObserverParts
from services.mitm.outbox import restored
from services.mitm.peer import PeerDirectory
from services.mitm.poller import Poller
from services.mitm.server import Server
from services.mitm.stream import Scratch
from services.mitm.times import steady_offset
from services.mitm.upstream import Dialer, Pool, Route
from services.mitm.wiring import AwaitsUpstream, Wiring
from services.runtime.run import VERSION, Process


async def mitm(process: Process) -> None:
    """Serve until the process is asked to stop."""
    config = MitmConfig.from_settings(process.settings, process.state)
    logs = process.logs
    loop = asyncio.get_running_loop()
    keystore = Keystore(config, logs, partial(datetime.now, UTC), loop.call_soon)
    addresses = Addresses(config.run_directory)
    journal = Journal.open(config.journal_directory, process.name, restore=restored)
    publisher = ExchangePublisher(journal, addresses, logs)
    poller = Poller(loop, logs, Convoy(journal))
    scratch = Scratch()

    def context_for(host: str, usual: ssl.SSLContext) -> ssl.SSLContext:
        return keystore.simulator_context if host == SIMULATED_HOST else usual

    dialer = Dialer(
        poller,
        scratch,
        upstream_map=dict(config.upstream_map),
        contexts=lambda host: context_for(host, keystore.upstream_context),
        http2_contexts=lambda host: context_for(host, keystore.http2_upstream_context),
        connect_timeout_s=config.limits.connect_timeout_s,
        handshake_timeout_s=config.limits.handshake_timeout_s,
    )
    pool = Pool(poller, size_max=config.limits.pool_size_max, idle_timeout_s=config.limits.pool_idle_timeout_s)
    peers = PeerDirectory()

    async with asyncio.TaskGroup() as tasks:
        dials: set[asyncio.Task[None]] = set()

        def begin(route: Route, awaits: AwaitsUpstream, *, tls: bool, http2: bool = False) -> None:
            dialling = tasks.create_task(server.dial(route, awaits, tls=tls, http2=http2))
            dials.add(dialling)
            dialling.add_done_callback(dials.discard)

        wiring = Wiring(
            poller=poller,
            scratch=scratch,
            limits=config.limits,
            logs=logs,
            hosts=HostList(config.intercept_hosts),
            pool=pool,
            observer_parts=ObserverParts(
                outbox=publisher,
                logs=logs,
                ids=UlidSource(os.urandom(10)),
                model_names=ModelNames(),
                epoch_offset_s=steady_offset(time.time, time.monotonic),
                decoded_bytes_max=config.limits.decoded_bytes_max,
            ),
            dial=partial(begin, tls=True),
            dial_http2=partial(begin, tls=True, http2=True),
            dial_tunnel=partial(begin, tls=False),
        )
        server = Server(config, wiring, dialer, keystore.server_context, peers)

        def health() -> tuple[tuple[Missing, ...], Mapping[str, object]]:
            facts = publisher.facts()
            lost = f"the journal cannot be written: {facts['recording_problem']}"
            missing = () if facts["recording"] else (Missing(what="recording", detail=lost),)
            return (*missing, *server.missing()), {**facts, **server.facts()}

        beating = tasks.create_task(Beat(addresses, process.name, VERSION, health).run())
        publishing = tasks.create_task(publisher.run())
        server.listen()
        logs.info("listener.opened", port=config.port)
        await process.stopping.wait()
        await server.close()
        for each in (*dials, beating, publishing):
            each.cancel()
    await publisher.close()
    poller.close()
    peers.close()
