"""
Events to bytes and back: one JSON object per event, with its schema first.

Encoding is orjson's own for dataclasses. Decoding checks every member against the field's type, ignores members that
it does not know (a newer writer may say more), and raises `EventInvalid` for anything else. What can be found out about
a type is found out once: the accountant reads tens of thousands of records a second.
"""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum, StrEnum, auto
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar

import orjson

from services.events.usual import is_union, plain_types, usual_form

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
    _check_schema(kind, members)
    return kind(**_checked(_members_read(kind, _Form.VALUE), members, kind.SCHEMA))


def checked(kind: type[Event], members: dict[str, object]) -> dict[str, object]:
    """
    Check an event as `decode` does, but leave it as JSON has it: for those who pass it on and look at little of it.

    Returns:
        Its members, the schema first, then all of them, in the order of the fields if its writer keeps it, as ours do.
        It may be what was given, and parts may be shared: leave them as they are.

    Raises:
        EventInvalid: As for `decode`.
    """
    if _has_usual_form(kind)(members):
        return members
    _check_schema(kind, members)
    return {"schema": kind.SCHEMA} | _checked(_members_read(kind, _Form.MEMBERS), members, kind.SCHEMA)


def value_from(kind: Any, members: Mapping[str, object], where: str) -> Any:
    """Read a plain dataclass that is part of an event; see `decode`."""
    return kind(**_checked(_members_read(kind, _Form.VALUE), members, where))


def _check_schema(kind: type[Event], members: Mapping[str, object]) -> None:
    if members.get("schema") != kind.SCHEMA:
        raise EventInvalid(f"schema is {members.get('schema')!r}, not {kind.SCHEMA!r}")


_has_usual_form = functools.cache(usual_form)


class _Form(Enum):
    """What comes of an object: the dataclass, or a dictionary of all its members."""

    VALUE = auto()
    MEMBERS = auto()


_Check: TypeAlias = Callable[[object, str], object]
_ABSENT = object()


class _Member(NamedTuple):
    """
    How one field is read.

    Attributes:
        plain: Types whose values are taken as they are. A record has thirty members, nearly all of these.
        check: For all other values: converts or refuses one, told where it stands.
        default: Stands for a member that is left out; `_ABSENT` where the dataclass has its own, or none.
    """

    name: str
    plain: frozenset[type]
    check: _Check
    is_required: bool
    default: object


def _checked(read: Sequence[_Member], members: Mapping[str, object], where: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, plain, check, is_required, default in read:
        value = members.get(name, default)
        if type(value) in plain:
            found[name] = value
        elif value is not _ABSENT:
            found[name] = check(value, f"{where}.{name}")
        elif is_required:
            raise EventInvalid(f"{where}.{name} is missing")
    return found


@functools.cache
def _members_read(kind: Any, form: _Form) -> tuple[_Member, ...]:
    hints = typing.get_type_hints(kind)
    read = []
    for field in dataclasses.fields(kind):
        default: object = field.default
        if field.default_factory is not dataclasses.MISSING:
            # Defaults are written and read like anything else.
            default = orjson.loads(orjson.dumps(field.default_factory()))
        is_required = default is dataclasses.MISSING
        read.append(
            _Member(
                name=field.name,
                plain=plain_types(hints[field.name]),
                check=_check_of(hints[field.name], form),
                is_required=is_required,
                default=default if form is _Form.MEMBERS and not is_required else _ABSENT,
            )
        )
    return tuple(read)


def _check_of(hint: Any, form: _Form) -> _Check:
    origin = typing.get_origin(hint)
    if is_union(hint):
        return _union_check(typing.get_args(hint), form)
    if origin is tuple:
        return _tuple_check(typing.get_args(hint)[0], form)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_check(typing.get_args(hint)[1], form)
    if dataclasses.is_dataclass(hint):
        return _dataclass_check(typing.cast(type[Any], hint), form)
    if hint is object:
        return lambda value, where: value
    if issubclass(hint, StrEnum):
        return _enum_check(hint, form)
    return functools.partial(_check_plain, hint)


def _union_check(options: tuple[Any, ...], form: _Form) -> _Check:
    takes_none = types.NoneType in options
    checks = [_check_of(option, form) for option in options if option is not types.NoneType]

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


def _tuple_check(item: Any, form: _Form) -> _Check:
    check_item = _check_of(item, form)

    def check(value: object, where: str) -> object:
        if not isinstance(value, list | tuple):
            raise EventInvalid(f"{where} is {value!r:.80}, not a list")
        return tuple(check_item(each, f"{where}[{n}]") for n, each in enumerate(value))

    return check


def _mapping_check(item: Any, form: _Form) -> _Check:
    plain, check_item = plain_types(item), _check_of(item, form)

    def check(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise EventInvalid(f"{where} is {value!r:.80}, not an object")
        return {
            name: each if type(each) in plain else check_item(each, f"{where}.{name}") for name, each in value.items()
        }

    return check


def _dataclass_check(kind: Any, form: _Form) -> _Check:
    read = _members_read(kind, form)

    def check(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise EventInvalid(f"{where} is {value!r:.80}, not an object")
        members = _checked(read, value, where)
        return kind(**members) if form is _Form.VALUE else members

    return check


def _enum_check(kind: type[StrEnum], form: _Form) -> _Check:
    def check(value: object, where: str) -> object:
        if not isinstance(value, str):
            raise EventInvalid(f"{where} is {value!r:.80}, not of type {kind.__name__}")
        try:
            member = kind(value)
            return member if form is _Form.VALUE else member.value
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
