"""Hypothesis strategies for events: any values that their types allow."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from hypothesis import strategies as st

from services.bus.delivery import CommitMarked, PublisherGreeted
from services.events.exchange import ExchangeCounted, UsageRecorded
from services.events.lifecycle import LanguageServerState, ProcessBeat
from services.events.turn import TurnAccepted, TurnCancelled, TurnDelta, TurnDone, TurnFailed, TurnRequested

EVENTS: tuple[Any, ...] = (
    UsageRecorded,
    ExchangeCounted,
    ProcessBeat,
    LanguageServerState,
    TurnRequested,
    TurnCancelled,
    TurnAccepted,
    TurnDelta,
    TurnDone,
    TurnFailed,
    PublisherGreeted,
    CommitMarked,
)
# What survives JSON: numbers of 64 bits, no NaN.
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
    object: st.none() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(0, 9), max_size=2),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a type that a field of an event may have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values_of(each) for each in arguments])
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(st.text(max_size=8), values_of(arguments[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        fields = {field.name: values_of(hints[field.name]) for field in dataclasses.fields(hint)}
        return st.builds(hint, **fields)  # type: ignore[arg-type]
    return _PLAIN[hint]


def any_event() -> st.SearchStrategy[Any]:
    """Return a strategy for events of all kinds."""
    return st.sampled_from(EVENTS).flatmap(values_of)
