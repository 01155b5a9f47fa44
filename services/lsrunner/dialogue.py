"""
Conversations with the Antigravity language server: a message goes in, the turn's deltas come out.

A turn is followed by `StreamAgentStateUpdates` where the build has it, else (and when a stream breaks off) by asking
for the trajectory again and again. Nothing that the server wants to do on the machine is permitted: what waits for a
person's word is refused. A turn that ends early, cancelled or failed, is cancelled at the server as well.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

from services.events.turn import DeltaKind, FailureKind
from services.lsrunner.cascade import (
    Delta,
    Ending,
    TurnReader,
    Update,
    Waiting,
    update_in_stream,
    update_in_trajectory,
)
from services.lsrunner.connect_rpc import ConnectClient, RpcBroken, RpcError, RpcRefused
from services.lsrunner.envelopes import JsonObject
from services.lsrunner.hub import HubModel, message_request, refusal_request, start_request, trajectory_request
from services.lsrunner.profiles import Turn, TurnRefused

# The message is taken up at once by a server that works; a stuck one shall not use up the whole turn's time.
BEGIN_TIMEOUT_S = 30.0
# A turn that ends at once without an answer may never be seen running.
SILENT_TIMEOUT_S = 3.0
POLL_S = 0.2
_CANCEL_TIMEOUT_S = 2.0
# "input not registered" means that the step waits before its own machinery does: a matter of moments.
_REFUSAL_ATTEMPTS = 25
_REFUSAL_PAUSE_S = 0.2


class Dialogue:
    """All conversations with one running language server."""

    def __init__(self, rpc: ConnectClient, about: JsonObject, workspace: Path) -> None:
        self._rpc = rpc
        self._about = about
        self._workspace = workspace
        self._streams = True

    async def begin(self) -> str:
        """
        Begin a conversation; return its id, which its calls carry on the wire.

        Raises:
            TurnRefused: The server did not begin one.
        """
        wanted = str(uuid.uuid4())
        try:
            answer = await self._rpc.call("StartCascade", start_request(wanted, self._workspace, self._about))
        except RpcError as error:
            raise _refused(error) from error
        given = answer.get("cascadeId")
        return given if isinstance(given, str) and given else wanted

    async def say(self, conversation: str, text: str, model: HubModel, turn: Turn) -> tuple[Ending, str]:
        """
        Say something; the answer's pieces go to `turn`. Return how it ended, and the whole answer.

        Raises:
            TurnRefused: The server did not take the message, or went away, or wants what nobody may grant.
        """
        said: list[str] = []
        try:
            reader = TurnReader(await self._send(conversation, text, model))
            await self._follow(conversation, reader, turn, said)
        except RpcError as error:
            await self._cancel(conversation)
            raise _refused(error) from error
        except BaseException:
            await self._cancel(conversation)
            raise
        return reader.ending(), "".join(said)

    async def forget(self, conversation: str) -> None:
        """Delete a conversation that will not be continued; a server that cannot keeps it."""
        with contextlib.suppress(RpcError):
            await self._rpc.call("DeleteCascadeTrajectory", {"cascadeId": conversation}, _CANCEL_TIMEOUT_S)

    async def _cancel(self, conversation: str) -> None:
        with contextlib.suppress(RpcError):
            await self._rpc.call("CancelCascadeInvocation", {"cascadeId": conversation}, _CANCEL_TIMEOUT_S)

    async def _send(self, conversation: str, text: str, model: HubModel) -> int:
        """Send the message; return the length of the trajectory before it."""
        before = await self._look(conversation)
        answer = await self._rpc.call("SendUserCascadeMessage", message_request(conversation, text, model, self._about))
        if answer.get("queued") is True:
            before = await self._idle(conversation)
            await self._rpc.call("SendAllQueuedMessages", {"cascadeId": conversation})
        return before.length or 0

    async def _idle(self, conversation: str) -> Update:
        while True:
            update = await self._look(conversation)
            if update.status == "IDLE":
                return update
            await asyncio.sleep(POLL_S)

    async def _look(self, conversation: str) -> Update:
        return update_in_trajectory(await self._rpc.call("GetCascadeTrajectory", trajectory_request(conversation)))

    async def _follow(self, conversation: str, reader: TurnReader, turn: Turn, said: list[str]) -> None:
        """Follow a turn to its end."""
        refused: set[int] = set()
        taken_up = False
        try:
            async with (
                asyncio.timeout(BEGIN_TIMEOUT_S) as patience,
                contextlib.aclosing(self._updates(conversation)) as updates,
            ):
                async for update in updates:
                    _tell(reader.feed(update), turn, said)
                    if reader.has_begun:
                        patience.reschedule(None)
                    elif reader.has_steps and not taken_up:
                        taken_up = True
                        patience.reschedule(asyncio.get_running_loop().time() + SILENT_TIMEOUT_S)
                    if reader.waiting is not None:
                        await self._refuse(conversation, reader.waiting, refused)
                    if reader.seems_over:
                        # A stream can say IDLE first and the last words later, or never.
                        _tell(reader.feed(await self._look(conversation)), turn, said)
                        if reader.seems_over:
                            return
        except TimeoutError as error:
            if taken_up:
                message = "the language server ended the turn without an answer"
                raise TurnRefused(FailureKind.UPSTREAM, message) from error
            message = f"the language server did not take up the message within {BEGIN_TIMEOUT_S:g} s"
            raise TurnRefused(FailureKind.TIMEOUT, message) from error

    async def _updates(self, conversation: str) -> AsyncGenerator[Update, None]:
        """Yield news of a conversation, for ever."""
        if self._streams:
            request = {"conversationId": conversation, "subscriberId": str(uuid.uuid4())}
            try:
                async with contextlib.aclosing(self._rpc.stream("StreamAgentStateUpdates", request)) as messages:
                    async for message in messages:
                        yield update_in_stream(message)
            except RpcRefused as error:
                self._streams = not _lacks_streams(error)
            except RpcBroken:
                pass  # the server itself may be well
        while True:
            yield await self._look(conversation)
            await asyncio.sleep(POLL_S)

    async def _refuse(self, conversation: str, waiting: Waiting, refused: set[int]) -> None:
        """Say no to what a step asks for, once; a question that no does not answer ends the turn."""
        if waiting.step in refused:
            return
        refused.add(waiting.step)
        request = refusal_request(conversation, waiting.trajectory_id, waiting.step, waiting.kinds)
        if request is not None and await self._say_no(request):
            return
        wanted = ", ".join(waiting.kinds) or "something"
        message = f"the language server asks a person for {wanted}, and there is none to answer"
        raise TurnRefused(FailureKind.INVALID, message)

    async def _say_no(self, request: JsonObject) -> bool:
        for _ in range(_REFUSAL_ATTEMPTS):
            try:
                await self._rpc.call("HandleCascadeUserInteraction", request)
                return True
            except RpcRefused as error:
                if "not registered" not in error.message:
                    return False
            await asyncio.sleep(_REFUSAL_PAUSE_S)
        return False


def _tell(deltas: list[Delta], turn: Turn, said: list[str]) -> None:
    for delta in deltas:
        if delta.kind is DeltaKind.TEXT:
            said.append(delta.text)
            turn.text(delta.text)
        elif delta.kind is DeltaKind.THINKING:
            turn.thinking(delta.text)
        else:
            turn.tool(delta.text)


def _lacks_streams(error: RpcRefused) -> bool:
    """Tell a build without this stream from a stream that failed: builds between the two name the old one's end."""
    return error.code in ("unimplemented", "not_found") or "reactive state" in error.message


def _refused(error: RpcError) -> TurnRefused:
    """Translate an error of the server into one of the turn."""
    if isinstance(error, RpcBroken):
        return TurnRefused(FailureKind.INTERNAL, "the language server broke off in the middle of the turn")
    assert isinstance(error, RpcRefused)
    kinds = {
        "invalid_argument": FailureKind.INVALID,
        "failed_precondition": FailureKind.INVALID,
        "unauthenticated": FailureKind.NOT_READY,
        "unavailable": FailureKind.NOT_READY,
    }
    message = f"the language server refused: {error.message or error.code}"
    return TurnRefused(kinds.get(error.code, FailureKind.INTERNAL), message[:400])
