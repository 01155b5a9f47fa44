"""
Events that are byte for byte as our own writers write them, found without parsing: a type to a pattern over bytes.

All members in their order and no others, no space between them, strings without escapes, numbers in the only form in
which `codec.encode` writes them. Such bytes are what the codec would write again, so whoever passes an event on may
pass them on as they are. What does not match is not thereby wrong: the codec reads it and says so.

One thing a pattern cannot tell: whether a name comes twice in a mapping. `has_each_name_once` does.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from services.events.usual import is_union

# Neither quotes nor backslashes nor control characters, said by what is left: that is found faster. The bytes from 0x80
# on must be UTF-8, for which whoever has them looks at all at once. Possessive: there is no second way.
STRING = r'"[ !#-\[\]-\xff]*+"'
# The keys of a mapping: without a quote and a colon in them, so that they can be counted.
_NAME = r'"[a-z0-9_]*+"'
# Numbers that match are nearer to zero than this. What is farther away is no usual count; who reads on need not look.
NUMBER_END = 10**12
_WHOLE = r"(?:0|-?[1-9][0-9]{0,11}+)"
# At most 15 significant digits, the last of them no zero: then there is no shorter way to write the same number.
_FRACTION = r"-?(?:0|[1-9][0-9]{0,8}+)\.(?:0|[0-9]{0,2}[1-9])(?![0-9])"
_PLAIN = {str: STRING, int: _WHOLE, float: _FRACTION, bool: "(?:true|false)", types.NoneType: "null"}
_NEVER = "(?!)"


def verbatim(kind: type[Any], wanted: Sequence[str], before: str = "", after: str = "") -> re.Pattern[bytes]:
    """
    Return the pattern of an event of that kind.

    Its first group is everything behind the schema and its comma, up to the closing brace; the others are the JSON of
    the members `wanted`, which are named in their order, those of parts as `client.uid`. A value whose type is not said
    (`object`) never matches.

    Args:
        before, after: Patterns of what surrounds the event.
    """
    members = _members(kind, frozenset(wanted), "")
    source = rf'{before}\{{"schema":{re.escape(_quoted(kind.SCHEMA))},({members}\}}){after}'
    pattern = re.compile(source.encode())
    assert pattern.groups == 1 + len(wanted), f"{wanted} are not all members of {kind.__name__}"
    return pattern


def has_each_name_once(mapping: bytes, read: Mapping[str, object]) -> bool:
    """Say whether the JSON of a mapping, found in a verbatim event, has as many names as the mapping read from it."""
    return mapping.count(b'":') == len(read)


def _members(kind: Any, wanted: frozenset[str], path: str) -> str:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return ",".join(f'"{name}":{_member(hints[name], wanted, path + name)}' for name in names)


def _member(hint: Any, wanted: frozenset[str], path: str) -> str:
    value = _value(hint, wanted, path)
    return f"({value})" if path in wanted else value


def _value(hint: Any, wanted: frozenset[str], path: str) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if is_union(hint):
        # Null first: half of a record's members are. A whole number is the beginning of one with a fraction.
        order = sorted(options, key=lambda each: (each is not types.NoneType, each is int))
        return f"(?:{'|'.join(_value(option, wanted, path) for option in order)})"
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is tuple:
        return rf"\[{_listed(_value(options[0], wanted, path))}\]"
    if origin is not None and issubclass(origin, Mapping):
        return rf"\{{{_listed(f'{_NAME}:{_value(options[1], wanted, path)}')}\}}"
    if dataclasses.is_dataclass(hint):
        return rf"\{{{_members(hint, wanted, f'{path}.')}\}}"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return f"(?:{'|'.join(re.escape(_quoted(word)) for word in hint)})"
    return _NEVER


def _listed(item: str) -> str:
    return f"(?>(?:{item}(?:,{item})*)?)"


def _quoted(word: str) -> str:
    return f'"{word}"'
