"""
Whether an event is as our own writers write it, told in one look: a type to a function over JSON objects.

All members and no others, each of a type that needs no conversion. The function is written out for its type, as
`dataclasses` does it, with every member in a variable: a loop over the members costs a record five times as much.
It never refuses anything: what is unusual is left to the codec, which reads member by member and says what is wrong.
"""

import dataclasses
import operator
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import orjson


def plain_types(hint: Any) -> frozenset[type]:
    """Return the types whose values need no look inside and no conversion: exact ones, for bool is an int."""
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    return frozenset(option for option in options if option in (str, int, float, bool, types.NoneType))


def is_union(hint: Any) -> bool:
    """Say whether a value may be of several types."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def usual_form(kind: type[Any]) -> Callable[[dict[str, object]], bool]:
    """
    Return what says whether an object has the usual form of an event of that kind.

    Its schema must be first. Kinds with members that are more than plain values, lists and objects of such, words of a
    set, and dataclasses of all these are never usual.
    """
    function = _Function(kind.SCHEMA)
    function.look_inside(kind, "event", "schema")
    return function.compiled()


class _Function:
    """
    The source of one such function.

    Attributes:
        steps: Statements, each of which may return False.
        conditions: What must hold in the end.
        given: What the source names.
    """

    def __init__(self, schema: str) -> None:
        self.steps: list[str] = []
        self.conditions: list[str] = [f"next(iter(event)) == 'schema' and event_schema == {schema!r}"]
        self.given: dict[str, Any] = {}

    def look_inside(self, kind: type[Any], variable: str, *before: str) -> None:
        """Look at the members of the object that a variable holds: strings `before`, then those of a dataclass."""
        hints = dict.fromkeys(before, str) | typing.get_type_hints(kind)
        names = (*before, *(field.name for field in dataclasses.fields(kind)))
        members = [f"{variable}_{name}" for name in names]
        # A name is found in a dictionary at once if it is the very string there, and orjson keeps those that it makes.
        self.given[f"given_{variable}_members"] = operator.itemgetter(*orjson.loads(orjson.dumps(dict.fromkeys(names))))
        self.steps.append(f"if {variable}.__class__ is not dict or len({variable}) != {len(names)}: return False")
        self.steps.append(f"{', '.join(members)} = given_{variable}_members({variable})")
        for name, member in zip(names, members, strict=True):
            self._look_at(hints[name], member)

    def _look_at(self, hint: Any, variable: str) -> None:
        plain, origin, options = plain_types(hint), typing.get_origin(hint), typing.get_args(hint)
        if plain and len(plain) == (len(options) if is_union(hint) else 1):
            # None first: half of a record's members are.
            self.conditions.append(self._is_of(variable, sorted(plain, key=lambda each: each is not types.NoneType)))
        elif dataclasses.is_dataclass(hint):
            self.look_inside(typing.cast(type[Any], hint), variable)
        elif isinstance(hint, type) and issubclass(hint, StrEnum):
            self.given[f"given_{variable}_words"] = frozenset(member.value for member in hint)
            self.conditions += [self._is_of(variable, [str]), f"{variable} in given_{variable}_words"]
        elif origin is tuple:
            self.given[f"given_{variable}_types"] = plain_types(options[0])
            within = f"(not {variable} or given_{variable}_types.issuperset(map(type, {variable})))"
            self.conditions += [self._is_of(variable, [list]), within]
        elif origin is not None and not is_union(hint) and issubclass(origin, Mapping):
            self.given[f"given_{variable}_types"] = plain_types(options[1])
            within = f"given_{variable}_types.issuperset(map(type, {variable}.values()))"
            self.conditions += [self._is_of(variable, [dict]), within]
        else:
            self.conditions.append("False")

    @staticmethod
    def _is_of(variable: str, wanted: list[type]) -> str:
        each = (
            f"{variable} is None" if kind is types.NoneType else f"{variable}.__class__ is {kind.__name__}"
            for kind in wanted
        )
        return f"({' or '.join(each)})"

    def compiled(self) -> Callable[[dict[str, object]], bool]:
        """Make the function."""
        steps = "".join(f"        {step}\n" for step in self.steps)
        source = (
            f"def has_usual_form(event):\n    try:\n{steps}    except KeyError:\n        return False\n"
            f"    return {' and '.join(self.conditions)}\n"
        )
        exec(source, self.given)
        function: Callable[[dict[str, object]], bool] = self.given["has_usual_form"]
        return function
