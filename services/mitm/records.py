"""
Records of exchanges before they are written: all members of `UsageRecorded`, in its order.

What all exchanges with a host have in common is put together once; whoever writes a record copies it and sets what is
its own. Building thirty members anew takes five times as long.
"""

from dataclasses import fields
from functools import lru_cache

from orjson import Fragment

from services.events.exchange import UsageRecorded
from services.events.usage import Outcome

# A process has some hundred clients and some dozen hosts at most that it meets again and again.
_REMEMBERED_MAX = 256
# A longer name of a model is none, and a path may be as long as a head: it is not remembered.
MODEL_LETTERS_MAX = 512
_MEMBERS = ("schema", *(field.name for field in fields(UsageRecorded)))
_UNREADABLE = Outcome.UNREADABLE.value
_TRUNCATED = Outcome.TRUNCATED.value


@lru_cache(maxsize=_REMEMBERED_MAX)
def empty_record(provider: str, dialect: str | None, host: str, client: Fragment) -> dict[str, object]:
    """Return a record that says nothing of the exchange itself yet; it is shared, so copy it."""
    return dict.fromkeys(_MEMBERS) | {
        "schema": UsageRecorded.SCHEMA,
        "provider": provider,
        "dialect": dialect,
        "host": host,
        "finish_reasons": (),
        "anomalies": (),
        "usage": {},
        "client": client,
    }


@lru_cache(maxsize=_REMEMBERED_MAX)
def unread_record(provider: str, host: str, client: Fragment, reason: str) -> dict[str, object]:
    """Return the record of an exchange that nobody here can read, as far as those with one host are alike."""
    alike = {"outcome": _UNREADABLE, "reason": reason}
    return empty_record(provider, None, host, client) | alike


@lru_cache(maxsize=_REMEMBERED_MAX)
def draft_record(
    provider: str, dialect: str | None, host: str, client: Fragment, request_model: str | None, model: str | None
) -> dict[str, object]:
    """Return the record of a call in whose midst the process dies, as far as those of one model are alike."""
    alike = {
        "request_model": request_model,
        "model": model,
        "outcome": _TRUNCATED,
        "reason": "the proxy was killed in the middle of it",
        "aborted_by": "proxy",
    }
    return empty_record(provider, dialect, host, client) | alike
