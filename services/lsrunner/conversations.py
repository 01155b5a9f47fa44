"""
Which session of the language server a conversation belongs to.

Clients of the HTTP surfaces send the whole conversation with every request; language servers keep sessions. A
follow-up, that is a conversation whose beginning was seen and answered here, goes on in its session with the new
messages only. Any other begins a new session, which is told the earlier messages as text.

Input: messages. Output: a session to continue, or text for a new one. Digests of conversations are kept, never their
text, and no more of them than `limit`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.events.turn import Message, Role

Session = TypeVar("Session")
SESSIONS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue(Generic[Session]):
    """Say `text` in `session`, which knows everything before it."""

    session: Session
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Say `text` in a new session."""

    text: str


class Conversations(Generic[Session]):
    """The sessions that could be continued, least recently used first."""

    def __init__(self, limit: int = SESSIONS_MAX) -> None:
        assert limit > 0
        self._limit = limit
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def claim(self, messages: Sequence[Message]) -> Continue[Session] | Begin:
        """
        Decide where a request belongs.

        A session that is continued is forgotten until it is `answered`: it cannot be continued twice at once, and one
        whose turn failed has an unknown state. The same beginning with another follow-up (an edited or repeated prompt)
        is therefore a new conversation, as it must be: the session has moved on.
        """
        digests = list(_digests(messages))
        for cut in range(len(messages) - 1, 0, -1):
            new = messages[cut:]
            if any(message.role is not Role.USER for message in new):
                break  # an answer that was not given here
            session = self._sessions.pop(digests[cut - 1], None)
            if session is not None:
                return Continue(session=session, text="\n\n".join(message.text for message in new))
        return Begin(text=told_from_the_start(messages))

    def answered(self, messages: Sequence[Message], answer: str, session: Session) -> tuple[Session, ...]:
        """Keep the session for a follow-up; return those that are forgotten for it."""
        *_, digest = _digests((*messages, Message(role=Role.ASSISTANT, text=answer)))
        forgotten = []
        replaced = self._sessions.pop(digest, None)
        if replaced is not None and replaced != session:
            forgotten.append(replaced)
        self._sessions[digest] = session
        while len(self._sessions) > self._limit:
            forgotten.append(self._sessions.popitem(last=False)[1])
        return tuple(forgotten)


def _digests(messages: Iterable[Message]) -> Iterable[bytes]:
    """Yield the digest of the conversation up to and with each message."""
    digest = b""
    for message in messages:
        # Clients trim the answers that they send back.
        text = hashlib.sha256(message.text.strip().encode(errors="surrogatepass")).digest()
        digest = hashlib.sha256(digest + message.role.encode() + b"\0" + text).digest()
        yield digest


_SPEAKERS = {Role.USER: "User", Role.ASSISTANT: "Assistant"}


def told_from_the_start(messages: Sequence[Message]) -> str:
    """Write a conversation as one prompt: a single user message as it is, anything longer with its parts named."""
    instructions = [message.text for message in messages if message.role is Role.SYSTEM]
    spoken = [message for message in messages if message.role is not Role.SYSTEM]
    if not instructions and len(spoken) == 1:
        return spoken[0].text
    parts = []
    if instructions:
        parts.append("\n\n".join(["[Instructions for this conversation]", *instructions]))
    if len(spoken) > 1:
        told = [f"{_SPEAKERS[message.role]}: {message.text}" for message in spoken[:-1]]
        parts.append("\n\n".join(["[The conversation so far, as context; it needs no answer]", *told]))
    if spoken:
        parts.append(f"[The message to answer]\n\n{spoken[-1].text}")
    return "\n\n".join(parts)
