"""
The language server that ships with Wiremeter, for machines with neither account nor network.

Nothing is simulated between it and the ledger: `simulated_server.py` runs as the language server's user and really
calls, over TLS and through mitm, the provider's stand-in on this machine. What it answers is plainly marked as a
simulation. Speaks lines of JSON; their form is in that file's docstring.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import orjson

from services.events.codec import EventInvalid, read_object
from services.events.lifecycle import OfferedModel, ServerState
from services.events.turn import FailureKind, StopReason
from services.lsrunner.conversations import Continue, Conversations
from services.lsrunner.lodging import alone
from services.lsrunner.profiles import (
    Child,
    Launch,
    Place,
    ProfileFailed,
    Report,
    Turn,
    TurnRefused,
    TurnResult,
)

SERVER_SCRIPT = Path(__file__).resolve().parents[1] / "simulated_server.py"
NOTICE = "the simulated language server answers: no real one is used, and no provider"
# The calls carry the conversation's id, so turns are told apart; the number itself is arbitrary.
_TURNS_AT_ONCE = 4
_CANCEL_TIMEOUT_S = 5.0


class SimulatedProfile:
    """See the module."""

    NAME: ClassVar[str] = "simulated"
    accepts_turns = True
    turns_at_once = _TURNS_AT_ONCE

    def __init__(self, place: Place) -> None:
        self._python = place.python
        self._script = place.shared / SERVER_SCRIPT.name
        self._child: Child | None = None
        self._models: tuple[OfferedModel, ...] = ()
        self._conversations: Conversations[str] = Conversations()
        self._said: dict[str, asyncio.Queue[Mapping[str, object]]] = {}
        self._reading = asyncio.Lock()

    def launch(self) -> Launch:
        """Start the copy of the script that its user can read."""
        return Launch(
            program=(*alone(self._python), str(self._script)),
            # What is said must arrive at once, and in one coding.
            environment={"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            keeps_stdin=True,
            stdout_is_protocol=True,
        )

    async def ready(self, child: Child, report: Report) -> tuple[OfferedModel, ...]:
        """Wait until its first calls have gone through mitm to the provider's stand-in and back."""
        self._child = child
        while True:
            said = await self._line()
            if said.get("say") == "waiting":
                report(ServerState.STARTING, detail=str(said.get("detail")))
            elif said.get("say") == "ready":
                self._models = _models_in(said)
                return self._models

    async def _line(self) -> Mapping[str, object]:
        assert self._child is not None and self._child.stdout is not None
        line = await self._child.stdout.readline()
        if not line:
            raise ProfileFailed("the simulated language server has ended")
        try:
            return read_object(line)
        except EventInvalid as error:
            raise ProfileFailed(f"the simulated language server said something else: {error}") from error

    async def answer(self, turn: Turn) -> TurnResult:
        """Relay one turn."""
        request = turn.request
        place = self._conversations.claim(request.messages)
        conversation = place.session if isinstance(place, Continue) else str(uuid.uuid4())
        turn.accepted_conversation(conversation)
        queue = self._said[request.turn_id] = asyncio.Queue()
        self._tell(
            do="answer",
            turn=request.turn_id,
            conversation=conversation,
            model=request.model or self._models[0].id,
            # The whole conversation each time, as the real one sends it to its provider.
            messages=[{"role": message.role, "text": message.text} for message in request.messages],
        )
        try:
            result, said = await self._relay(turn, queue, conversation)
        except asyncio.CancelledError:
            await self._cancel(request.turn_id, queue)
            raise
        finally:
            del self._said[request.turn_id]
        self._conversations.answered(request.messages, said, conversation)
        return result

    async def _relay(
        self, turn: Turn, queue: asyncio.Queue[Mapping[str, object]], conversation: str
    ) -> tuple[TurnResult, str]:
        pieces: list[str] = []
        while True:
            said = await self._next(queue)
            match said.get("say"):
                case "text":
                    pieces.append(str(said.get("text")))
                    turn.text(pieces[-1])
                case "thinking":
                    turn.thinking(str(said.get("text")))
                case "done":
                    ids = said.get("response_ids")
                    return TurnResult(
                        stop_reason=StopReason(str(said.get("stop_reason"))),
                        response_ids=tuple(map(str, ids)) if isinstance(ids, list) else (),
                        conversation_id=conversation,
                    ), "".join(pieces)
                case _:
                    raise _refusal(said)

    async def _next(self, queue: asyncio.Queue[Mapping[str, object]]) -> Mapping[str, object]:
        """Return the next line for one turn; whichever turn waits reads for all."""
        while queue.empty():
            async with self._reading:  # its waiters are served in order, so nobody who reads for others starves
                if queue.empty():
                    said = await self._line()
                    meant = self._said.get(str(said.get("turn")))
                    if meant is not None:
                        meant.put_nowait(said)
        return queue.get_nowait()

    async def _cancel(self, turn_id: str, queue: asyncio.Queue[Mapping[str, object]]) -> None:
        self._tell(do="cancel", turn=turn_id)
        with contextlib.suppress(TimeoutError, ProfileFailed, TurnRefused):
            async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                while (await self._next(queue)).get("say") not in ("cancelled", "done", "failed"):
                    pass

    def _tell(self, **members: object) -> None:
        assert self._child is not None and self._child.stdin is not None
        self._child.stdin.write(orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE))

    async def close(self) -> None:
        """Hold nothing beside the pipes, which are the runner's."""


def _models_in(said: Mapping[str, object]) -> tuple[OfferedModel, ...]:
    models = said.get("models")
    if not isinstance(models, list) or not models:
        raise ProfileFailed("the simulated language server offers no model")
    return tuple(OfferedModel(id=str(model["id"]), name=str(model["name"])) for model in models)


def _refusal(said: Mapping[str, object]) -> TurnRefused:
    status = said.get("status")
    try:
        kind = FailureKind(str(said.get("kind")))
    except ValueError:
        kind = FailureKind.INTERNAL
    return TurnRefused(kind, str(said.get("message")), status if isinstance(status, int) else None)
