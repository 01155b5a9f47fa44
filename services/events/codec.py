"""
Events to bytes and back: one JSON object per event, with its schema first.

Encoding is orjson's own for dataclasses. Decoding checks every member against the field's type, ignores members that
it does not know (a newer writer may say more), and raises `EventInvalid` for anything else.
"""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar

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
    names, values_of = _members_of(typing.cast(Hashable, type(event)))
    return orjson.dumps(dict(zip(names, (event.SCHEMA, *values_of(event)), strict=True)))


@functools.cache
def _members_of(kind: Any) -> tuple[tuple[str, ...], Callable[[object], tuple[object, ...]]]:
    # `__dataclass_fields__` holds class variables too, and SCHEMA is one.
    names = tuple(field.name for field in dataclasses.fields(kind))
    several = operator.attrgetter(*names)
    return ("schema", *names), several if len(names) > 1 else lambda event: (several(event),)


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


class _Member(NamedTuple):
    """
    How one field is read.

    Attributes:
        plain: Types whose values are taken as they are. A record has thirty members, nearly all of these.
        check: For all other values: converts or refuses one, told where it stands.
    """

    name: str
    plain: frozenset[type]
    check: "_Check"
    is_required: bool


_Check: TypeAlias = Callable[[object, str], object]


def _dataclass_from(kind: type[Any], members: Mapping[str, object], where: str) -> object:
    found: dict[str, object] = {}
    for name, plain, check, is_required in _members_read(typing.cast(Hashable, kind)):
        value = members.get(name, _ABSENT)
        if type(value) in plain:
            found[name] = value
        elif value is not _ABSENT:
            found[name] = check(value, f"{where}.{name}")
        elif is_required:
            raise EventInvalid(f"{where}.{name} is missing")
    return kind(**found)


_ABSENT = object()


@functools.cache
def _members_read(kind: Any) -> tuple[_Member, ...]:
    hints = typing.get_type_hints(kind)
    return tuple(
        _Member(
            name=field.name,
            plain=_plain_types(hints[field.name]),
            check=_check_of(hints[field.name]),
            is_required=field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    )


def _plain_types(hint: Any) -> frozenset[type]:
    """Return the types whose values need no look inside and no conversion: exact ones, for bool is an int."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    return frozenset(option for option in options if option in (str, int, float, bool, types.NoneType))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _check_of(hint: Any) -> _Check:
    """Make the check of one type; whatever can be found out about the type is found out here, once."""
    origin = typing.get_origin(hint)
    if _is_union(hint):
        return _union_check(typing.get_args(hint))
    if origin is tuple:
        return _tuple_check(typing.get_args(hint)[0])
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_check(typing.get_args(hint)[1])
    if dataclasses.is_dataclass(hint):
        return _dataclass_check(typing.cast(type[Any], hint))
    if hint is object:
        return lambda value, where: value
    if issubclass(hint, StrEnum):
        return _enum_check(hint)
    return functools.partial(_check_plain, hint)


def _union_check(options: tuple[Any, ...]) -> _Check:
    takes_none = types.NoneType in options
    checks = [_check_of(option) for option in options if option is not types.NoneType]

    def check(value: object, where: str) -> object:
        if value is None and takes_none:
            return None
        problem: EventInvalid | None = None
        for each in checks:
            try:
                return each(value, where)
            except EventInvalid as error:
                problem = problem or error
        raise problem or EventInvalid(f"{where} is {value!r:.80}")

    return check


def _tuple_check(item: Any) -> _Check:
    check_item = _check_of(item)

    def check(value: object, where: str) -> object:
        if not isinstance(value, list | tuple):
            raise EventInvalid(f"{where} is {value!r:.80}, not a list")
        return tuple(check_item(each, f"{where}[{n}]") for n, each in enumerate(value))

    return check


def _mapping_check(item: Any) -> _Check:
    plain, check_item = _plain_types(item), _check_of(item)

    def check(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise EventInvalid(f"{where} is {value!r:.80}, not an object")
        return {
            name: each if type(each) in plain else check_item(each, f"{where}.{name}") for name, each in value.items()
        }

    return check


def _dataclass_check(kind: type[Any]) -> _Check:
    def check(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise EventInvalid(f"{where} is {value!r:.80}, not an object")
        return _dataclass_from(kind, value, where)

    return check


def _enum_check(kind: type[StrEnum]) -> _Check:
    def check(value: object, where: str) -> object:
        if not isinstance(value, str):
            raise EventInvalid(f"{where} is {value!r:.80}, not of type {kind.__name__}")
        try:
            return kind(value)
        except ValueError as error:
            raise EventInvalid(f"{where} is {value!r:.80}, not one of {', '.join(kind)}") from error

    return check


def _check_plain(kind: type[Any], value: object, where: str) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is an int to isinstance, and never what a count means.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise EventInvalid(f"{where} is {value!r:.80}, not of type {kind.__name__}")
    return value
