"""A runner of the test's own: the real process, a stand-in of mitm that only tunnels, and the bus between us."""

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.bus.addresses import Addresses
from services.bus.publisher import Publisher
from services.bus.subscriber import Subscriber
from services.events.turn import Message, Role, TurnCancelled, TurnRequested
from services.mitm.authority import make_authority, make_leaf, make_leaf_key
from services.runtime.state import StateDirectory
from tests.support.checkout import PROJECT, free_ports

SIMULATED_HOST = "simulated.wiremeter.invalid"
Members = dict[str, Any]


def make_certificates(state: StateDirectory) -> None:
    """Write what mitm would: the simulated provider's certificate, and trust files that know its authority."""
    now = datetime.now(UTC)
    authority = make_authority([SIMULATED_HOST], now, "test authority")
    leaf = make_leaf(authority, make_leaf_key(), SIMULATED_HOST, now)
    (state.simulator / "provider.pem").write_bytes(leaf.certificate_pem() + leaf.key_pem())
    for path in (state.trust_bundle, state.authority_certificate):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(authority.certificate_pem())
        path.chmod(0o644)


class Tunnel:
    """
    Stands where mitm stands: takes CONNECT and redirected TLS, and tunnels both unopened to the simulated provider.

    Attributes:
        asked: Head of every CONNECT, in order.
        redirected: Connections that began with TLS.
    """

    def __init__(self, port: int, provider_port: int) -> None:
        self.port = port
        self._provider_port = provider_port
        self.asked: list[str] = []
        self.redirected = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, ["127.0.0.1", "::1"], self.port)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(1)
            is_tls = first == b"\x16"
            if is_tls:
                self.redirected += 1
            else:
                self.asked.append((first + await reader.readuntil(b"\r\n\r\n")).decode())
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._provider_port)
            if is_tls:
                up_writer.write(first)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, up_writer))
                group.create_task(_pump(up_reader, writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Runner:
    """The real runner as a process, and its two sockets."""

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        mitm_port, provider_port, front, usage = free_ports(4)
        self.state = StateDirectory(home=home)
        mitm_port = int(settings.get("WIREMETER_MITM_PORT", mitm_port))
        self.tunnel = Tunnel(mitm_port, provider_port)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "WIREMETER_HOME": str(home),
            "WIREMETER_CONFIG": str(home / "wiremeter.toml"),
            "WIREMETER_MITM_PORT": str(mitm_port),
            "WIREMETER_SIMULATOR_PORT": str(provider_port),
            "WIREMETER_FRONTPROXY_PORT": str(front),
            "WIREMETER_ACCOUNTANT_USAGE_ENDPOINT": f"tcp://127.0.0.1:{usage}",
            "WIREMETER_LSRUNNER_USER": pwd.getpwuid(os.geteuid()).pw_name,
            **settings,
        }
        self.process: asyncio.subprocess.Process | None = None
        self.messages: list[tuple[str, Members]] = []
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Start the process."""
        log = await asyncio.to_thread((self.state.home / "lsrunner.log").open, "ab")
        with log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.lsrunner",
                cwd=PROJECT,
                env=self.environ,
                stdin=-3,
                stdout=log,
                stderr=log,
            )

    async def listen(self, subscriber: Subscriber) -> None:
        """Keep what the runner publishes, until cancelled."""
        async for topic, members in subscriber:
            self.messages.append((topic, members))
            self._news.set()
            self._news = asyncio.Event()

    async def heard(self, what: str, condition: Callable[[str, Members], bool], since: int = 0) -> Members:
        """Wait for the first message (from number `since` on) that fits."""
        seen = since
        try:
            async with asyncio.timeout(30):
                while True:
                    news = self._news
                    for topic, members in self.messages[seen:]:
                        if condition(topic, members):
                            return members
                    seen = len(self.messages)
                    await news.wait()
        except TimeoutError:
            last = [members for topic, members in self.messages if topic == "ls.state"][-1:]
            raise AssertionError(f"{what}: never heard; last state {last}; log:\n{self.log()}") from None

    async def in_state(self, state: str, since: int = 0, **members: object) -> Members:
        """Wait until the language server is in that state."""

        def fits(topic: str, found: Members) -> bool:
            return topic == "ls.state" and found["state"] == state and members.items() <= found.items()

        return await self.heard(f"state {state}", fits, since)

    def log(self) -> str:
        """Return the process's log."""
        return (self.state.home / "lsrunner.log").read_text()

    def child_pid(self) -> int:
        """Return the pid of the language server, as last published."""
        return next(m["pid"] for topic, m in reversed(self.messages) if topic == "ls.state" and m["pid"])


class Asker:
    """Plays frontproxy."""

    def __init__(self, runner: Runner, publisher: Publisher) -> None:
        self._runner = runner
        self._publisher = publisher

    async def ask(self, turn_id: str, *messages: str, model: str | None = None, deadline_s: float = 20.0) -> None:
        """Request a turn, until it is accepted or refused; the messages are the user's and the assistant's in turn."""
        roles = (Role.USER, Role.ASSISTANT)
        said = tuple(Message(role=roles[n % 2], text=text) for n, text in enumerate(messages))
        request = TurnRequested(turn_id=turn_id, model=model, messages=said, deadline_s=deadline_s)
        since = len(self._runner.messages)
        answered = asyncio.Event()

        async def repeat() -> None:
            while not answered.is_set():
                self._publisher.publish("turn.request", request)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answered.wait(), 0.2)

        async with asyncio.TaskGroup() as group:
            group.create_task(repeat())
            await self._runner.heard(f"an answer to {turn_id}", lambda topic, _: topic == f"turn.{turn_id}", since)
            answered.set()

    async def end_of(self, turn_id: str) -> Members:
        """Wait for the end of a turn; check that its numbers have no gap."""
        ends = ("wiremeter.turn-done/1", "wiremeter.turn-failed/1")
        end = await self._runner.heard(
            f"the end of {turn_id}", lambda topic, m: topic == f"turn.{turn_id}" and m["schema"] in ends
        )
        numbers = [m["number"] for topic, m in self._runner.messages if topic == f"turn.{turn_id}" and "number" in m]
        assert numbers == list(range(1, len(numbers) + 1)) or numbers == [0]
        return end

    def text_of(self, turn_id: str, kind: str = "text") -> str:
        """Return what was said."""
        mine = (m for topic, m in self._runner.messages if topic == f"turn.{turn_id}")
        return "".join(m["text"] for m in mine if m.get("kind") == kind)

    def cancel(self, turn_id: str) -> None:
        """Cancel a turn."""
        self._publisher.publish("turn.cancel", TurnCancelled(turn_id=turn_id, reason="the client has gone"))


@contextlib.asynccontextmanager
async def running(
    settings: Mapping[str, str], *, certificates: bool = True, tunnel: bool = True, home: Path | None = None
) -> AsyncIterator[tuple[Runner, Asker]]:
    """Start a runner with its surroundings; at the end stop it and check that nothing of it is left."""
    with short_directory() if home is None else contextlib.nullcontext(home) as place:
        runner = Runner(place, settings)
        (place / "wiremeter.toml").touch()
        runner.state.make()
        if certificates:
            make_certificates(runner.state)
        if tunnel:
            await runner.tunnel.open()
        addresses = Addresses(runner.state.run)
        subscriber = Subscriber(connect=[addresses.turn], topics=["turn.", "ls.state"])
        publisher = Publisher(connect=[addresses.turn_request])
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(runner.listen(subscriber))
                await runner.start()
                try:
                    yield runner, Asker(runner, publisher)
                finally:
                    await _stop(runner)
                    listening.cancel()
        finally:
            subscriber.close()
            publisher.close()
            await runner.tunnel.close()


async def _stop(runner: Runner) -> None:
    assert runner.process is not None
    with contextlib.suppress(ProcessLookupError):
        runner.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        await runner.process.wait()
    assert "Traceback" not in runner.log(), runner.log()


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory whose sockets' paths are short, and which other users can enter."""
    path = Path(tempfile.mkdtemp(prefix="wm-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def as_setting(command: list[str]) -> str:
    """Write a command as the value of a setting."""
    return json.dumps(command)


ACP_AGENT = str(PROJECT / "tests" / "fakes" / "acp_agent.py")
SIMULATED = {"WIREMETER_LSRUNNER_PROFILE": "simulated"}


def acp(*options: str, **settings: str) -> dict[str, str]:
    """Return settings for the fake agent."""
    command = as_setting([sys.executable, ACP_AGENT, *options])
    return {"WIREMETER_LSRUNNER_PROFILE": "acp", "WIREMETER_LSRUNNER_COMMAND": command} | settings
