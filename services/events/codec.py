"""
Events to bytes and back: one JSON object per event, with its schema first.

Encoding is orjson's own for dataclasses. Decoding checks every member against the field's type, ignores members that
it does not know (a newer writer may say more), and raises `EventInvalid` for anything else.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Protocol, TypeVar

import orjson

# The largest event: a turn request with a long conversation. Everything else is a few kilobytes.
EVENT_BYTES_MAX = 16 * 1024 * 1024


class EventInvalid(Exception):
    """Bytes that are not the event that they claim to be."""


class Event(Protocol):
    """A frozen dataclass whose `SCHEMA` names it on the wire."""

    SCHEMA: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


EventT = TypeVar("EventT", bound=Event)


def encode(event: Event) -> bytes:
    """Write an event as JSON that starts with its schema."""
    names = _field_names(typing.cast(Hashable, type(event)))
    return orjson.dumps({"schema": event.SCHEMA} | {name: getattr(event, name) for name in names})


@functools.cache
def _field_names(kind: Any) -> tuple[str, ...]:
    # `__dataclass_fields__` holds class variables too, and SCHEMA is one.
    return tuple(field.name for field in dataclasses.fields(kind))


def read_object(data: bytes) -> dict[str, object]:
    """
    Read the JSON object in `data`.

    Raises:
        EventInvalid: Too large, not JSON, or not an object.
    """
    if len(data) > EVENT_BYTES_MAX:
        raise EventInvalid(f"event of {len(data)} bytes exceeds {EVENT_BYTES_MAX}")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EventInvalid(f"event is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EventInvalid(f"event is a {type(value).__name__}, not an object")
    return value


def decode(kind: type[EventT], data: bytes | Mapping[str, object]) -> EventT:
    """
    Read one event of the given kind.

    Raises:
        EventInvalid: Not JSON, another schema, a missing member or one of another type.
    """
    members = data if isinstance(data, Mapping) else read_object(data)
    if members.get("schema") != kind.SCHEMA:
        raise EventInvalid(f"schema is {members.get('schema')!r}, not {kind.SCHEMA!r}")
    return typing.cast(EventT, _dataclass_from(kind, members, kind.SCHEMA))


def value_from(kind: type[Any], members: Mapping[str, object], where: str) -> Any:
    """Read a plain dataclass that is part of an event; see `decode`."""
    return _dataclass_from(kind, members, where)


@functools.cache
def _field_types(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    hints = typing.get_type_hints(kind)
    return tuple(
        (
            field.name,
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    )


def _dataclass_from(kind: type[Any], members: Mapping[str, object], where: str) -> object:
    found: dict[str, object] = {}
    for name, hint, required in _field_types(typing.cast(Hashable, kind)):
        if name in members:
            found[name] = _checked(hint, members[name], f"{where}.{name}")
        elif required:
            raise EventInvalid(f"{where}.{name} is missing")
    return kind(**found)


def _checked(hint: Any, value: object, where: str) -> object:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _checked_union(typing.get_args(hint), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise EventInvalid(f"{where} is {value!r:.80}, not a list")
        item = typing.get_args(hint)[0]
        return tuple(_checked(item, each, f"{where}[{n}]") for n, each in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise EventInvalid(f"{where} is {value!r:.80}, not an object")
        item = typing.get_args(hint)[1]
        return {name: _checked(item, each, f"{where}.{name}") for name, each in value.items()}
    return _checked_plain(hint, value, where)


def _checked_union(options: tuple[Any, ...], value: object, where: str) -> object:
    if value is None and type(None) in options:
        return None
    problem: EventInvalid | None = None
    for option in options:
        if option is not type(None):
            try:
                return _checked(option, value, where)
            except EventInvalid as error:
                problem = problem or error
    raise problem or EventInvalid(f"{where} is {value!r:.80}")


def _checked_plain(hint: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise EventInvalid(f"{where} is {value!r:.80}, not an object")
        return _dataclass_from(typing.cast(type[Any], hint), value, where)
    if hint is object:
        return value
    if isinstance(hint, type) and issubclass(hint, StrEnum) and isinstance(value, str):
        try:
            return hint(value)
        except ValueError as error:
            raise EventInvalid(f"{where} is {value!r:.80}, not one of {', '.join(hint)}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is an int to isinstance, and never what a count means.
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise EventInvalid(f"{where} is {value!r:.80}, not of type {hint.__name__}")
    return value
