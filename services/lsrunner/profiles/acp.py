"""
Any Agent Client Protocol agent over stdio: `gemini --acp`, `claude-agent-acp`, `codex-acp`, …

JSON-RPC 2.0, one object per line on the agent's standard input and output (agentclientprotocol.com, protocol version
1). The connection and the requests' shapes are those of the PyPI package `agent-client-protocol`, imported when this
profile is used: it brings pydantic, 22 MB that the other profiles need not pay. What agents answer is read leniently
from the JSON itself, because they are ahead of every schema: unknown updates are passed over, model lists are taken
from wherever they are.

The agent gets no file system and no terminal of ours, and every permission that it asks for is refused: it answers
prompts here, it does not work on the machine. Its own tools run as its own user, in a private directory. One turn at a
time: its calls on the wire do not say which session they belong to.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from services.events.codec import EventInvalid, read_object
from services.events.lifecycle import OfferedModel, ServerState
from services.events.turn import FailureKind, StopReason
from services.lsrunner.acp_answers import (
    Models,
    api_key_method,
    failure_of,
    models_in,
    rejection_of,
    stop_reason_of,
    update_in,
)
from services.lsrunner.conversations import Continue, Conversations
from services.lsrunner.profiles import Child, Launch, Place, ProfileFailed, Report, Turn, TurnRefused, TurnResult

if TYPE_CHECKING:
    from acp.connection import Connection

AUTH_REQUIRED = -32000
METHOD_NOT_FOUND = -32601
# How long a cancelled prompt may take to say so; after that its session is not used again.
_CANCEL_TIMEOUT_S = 5.0


class AcpProfile:
    """See the module."""

    NAME: ClassVar[str] = "acp"
    accepts_turns = True
    turns_at_once = 1

    def __init__(self, place: Place) -> None:
        self._place = place
        self._connection: Connection | None = None
        self._models = Models()
        self._spare: str | None = None
        self._chosen: dict[str, str] = {}
        self._conversations: Conversations[str] = Conversations()
        self._turn: Turn | None = None
        self._session: str | None = None
        self._said: list[str] = []

    def launch(self) -> Launch:
        """Start what the user said."""
        return Launch(
            program=self._place.settings.command,
            # Gemini CLI reads an API key from its user's ~/.gemini/.env only where it trusts its directory, and ours is
            # empty and private; a key in the environment would be readable by every local user.
            environment={"GEMINI_CLI_TRUST_WORKSPACE": "true"},
            keeps_stdin=True,
            stdout_is_protocol=True,
        )

    async def ready(self, child: Child, report: Report) -> tuple[OfferedModel, ...]:
        """Greet the agent and open a first session, which tells the models."""
        from acp import connection, exceptions

        # The package logs through the root logger, with contents; without a handler Python would print that.
        logging.getLogger().addHandler(logging.NullHandler())
        assert child.stdin is not None and child.stdout is not None
        self._connection = connection.Connection(self._on_message, LineTransport(child.stdin, child.stdout))
        report(ServerState.STARTING, detail="the agent is greeted")
        try:
            greeting = await self._greet()
            report(ServerState.STARTING, detail="the agent opens its first session")
            opened = await self._first_session(greeting)
        except exceptions.RequestError as error:
            raise ProfileFailed(failure_of(error.code, str(error), error.data).message) from error
        except ConnectionError as error:
            raise ProfileFailed("the agent closed its output; is it an Agent Client Protocol agent?") from error
        self._models = models_in(opened, default=_name_of(greeting, self._place.settings.command))
        return self._models.offered

    async def _greet(self) -> Mapping[str, object]:
        from acp import meta, schema

        request = schema.InitializeRequest(
            protocol_version=meta.PROTOCOL_VERSION,
            client_capabilities=schema.ClientCapabilities(
                fs=schema.FileSystemCapabilities(read_text_file=False, write_text_file=False), terminal=False
            ),
            client_info=schema.Implementation(name="wiremeter", title="Wiremeter", version=self._place.version),
        )
        answer = await self._request(meta.AGENT_METHODS["initialize"], request)
        if answer.get("protocolVersion") != meta.PROTOCOL_VERSION:
            spoken = answer.get("protocolVersion")
            raise ProfileFailed(f"the agent speaks version {spoken!r} of the protocol, not {meta.PROTOCOL_VERSION}")
        return answer

    async def _first_session(self, greeting: Mapping[str, object]) -> Mapping[str, object]:
        from acp import meta, schema
        from acp.exceptions import RequestError

        try:
            return await self._open_session()
        except RequestError as error:
            method = api_key_method(greeting)
            # Other methods open a browser or ask in a terminal; the agent's user does that by hand, once.
            if error.code != AUTH_REQUIRED or method is None:
                raise
        await self._request(meta.AGENT_METHODS["authenticate"], schema.AuthenticateRequest(method_id=method))
        return await self._open_session()

    async def _open_session(self) -> Mapping[str, object]:
        from acp import meta, schema

        request = schema.NewSessionRequest(cwd=str(self._place.workspace), mcp_servers=[])
        answer = await self._request(meta.AGENT_METHODS["session_new"], request)
        session = answer.get("sessionId")
        if not isinstance(session, str):
            raise ProfileFailed("the agent opened a session without an id")
        self._spare = session
        return answer

    async def _request(self, method: str, request: Any) -> Mapping[str, object]:
        assert self._connection is not None
        params = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
        answer = await self._connection.send_request(method, params)
        return answer if isinstance(answer, dict) else {}

    async def answer(self, turn: Turn) -> TurnResult:
        """Prompt the agent in the session that the conversation belongs to."""
        from acp.exceptions import RequestError

        place = self._conversations.claim(turn.request.messages)
        try:
            session = place.session if isinstance(place, Continue) else await self._new_session()
            await self._choose_model(session, turn.request.model)
            stop_reason = await self._prompt(turn, session, place.text)
        except RequestError as error:
            raise failure_of(error.code, str(error), error.data) from error
        except ConnectionError as error:
            raise TurnRefused(FailureKind.INTERNAL, "the agent closed its output in the middle of the turn") from error
        if stop_reason is not StopReason.CANCELLED:
            self._conversations.answered(turn.request.messages, "".join(self._said), session)
        return TurnResult(stop_reason=stop_reason)

    async def _new_session(self) -> str:
        if self._spare is None:
            await self._open_session()
        session, self._spare = self._spare, None
        assert session is not None
        return session

    async def _choose_model(self, session: str, model: str | None) -> None:
        if model is None or model == self._chosen.get(session, self._models.current) or self._models.chooser is None:
            return
        assert self._connection is not None
        await self._connection.send_request(*self._models.choice(session, model))
        self._chosen[session] = model

    async def _prompt(self, turn: Turn, session: str, text: str) -> StopReason:
        from acp import meta, schema

        request = schema.PromptRequest(session_id=session, prompt=[schema.TextContentBlock(type="text", text=text)])
        self._turn, self._session, self._said = turn, session, []
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(self._outcome(meta.AGENT_METHODS["session_prompt"], request))
            try:
                # Shielded: an agent that is told to cancel still answers the prompt.
                outcome = await asyncio.shield(asked)
            except asyncio.CancelledError:
                self._turn = None
                await self._cancel(session, asked)
                raise
            finally:
                self._turn = None
        if isinstance(outcome, Exception):
            raise outcome
        return stop_reason_of(outcome)

    async def _outcome(self, method: str, request: Any) -> Mapping[str, object] | Exception:
        """Return what was raised: a task group would wrap it."""
        try:
            return await self._request(method, request)
        except Exception as error:
            return error

    async def _cancel(self, session: str, asked: asyncio.Task[Mapping[str, object] | Exception]) -> None:
        from acp import meta

        assert self._connection is not None
        with contextlib.suppress(Exception):
            await self._connection.send_notification(meta.AGENT_METHODS["session_cancel"], {"sessionId": session})
            await asyncio.wait([asked], timeout=_CANCEL_TIMEOUT_S)

    async def _on_message(self, method: str, params: object, is_notification: bool) -> object:
        """Take one message of the agent's; never suspends, so that updates keep their order."""
        from acp.exceptions import RequestError

        members = params if isinstance(params, dict) else {}
        if method == "session/update":
            self._on_update(members)
            return None
        if method == "session/request_permission":
            return rejection_of(members, prompting=self._turn is not None)
        if is_notification:
            return None
        raise RequestError(METHOD_NOT_FOUND, "this client offers neither files nor terminals", {"method": method})

    def _on_update(self, members: Mapping[str, object]) -> None:
        if self._turn is None or members.get("sessionId") != self._session:
            return  # between turns agents tell their commands and modes
        kind, text = update_in(members)
        if kind == "text":
            self._said.append(text)
            self._turn.text(text)
        elif kind == "thinking":
            self._turn.thinking(text)
        elif kind == "tool":
            self._turn.tool(text)

    async def close(self) -> None:
        """End the connection; the pipes are the runner's."""
        if self._connection is not None:
            await self._connection.close()


def _name_of(greeting: Mapping[str, object], command: Sequence[str]) -> str:
    info = greeting.get("agentInfo")
    name = info.get("name") if isinstance(info, dict) else None
    return name if isinstance(name, str) and name else PurePath(command[0]).name


class LineTransport:
    """
    Lines of JSON on two pipes, as a transport of the package's connection.

    Its own one reads lines of any length and logs what it cannot parse. This one passes over lines that are no JSON
    object (agents' libraries print to standard output) and over lines longer than the reader's limit.
    """

    def __init__(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self._writer = writer
        self._reader = reader

    async def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        self._writer.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """Read the next message; None at the end."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:
                continue  # beyond the limit: readline has dropped what was there, the rest will be no JSON
            except OSError:
                return None
            if not line:
                return None
            with contextlib.suppress(EventInvalid):
                return read_object(line)

    async def close(self) -> None:
        """Leave the pipes to the runner."""
