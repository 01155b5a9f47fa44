"""
Request bodies: bytes to a JSON object whose members are taken out with their types checked.

Every mistake becomes a `Refused` that names the member by its whole path, `messages[2].content[0].type`, and what it
is. An explicit `null` counts as absent, as the official SDKs write it.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from services.frontproxy.refusal import Refused, invalid

_JSON_WORDS: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def read_body(data: bytes) -> "Members":
    """
    Read the JSON object in a request body.

    Raises:
        Refused: Empty, not JSON (with the position), or not an object.
    """
    if not data:
        raise invalid("the request body is empty; a JSON object is expected", code="json_invalid")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the request body is not JSON: {error}", code="json_invalid") from error
    if not isinstance(value, dict):
        raise invalid(f"the request body is {json_word(value)}; a JSON object is expected", code="json_invalid")
    return Members(value)


def json_word(value: object) -> str:
    """Name the JSON type of a value."""
    return _JSON_WORDS[type(value)]


class Members:
    """One JSON object of a request, and the path by which messages call it."""

    __slots__ = ("path", "values")

    def __init__(self, values: Mapping[str, object], path: str = "") -> None:
        self.values = values
        self.path = path

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def name_of(self, name: str) -> str:
        """Return the whole path of a member."""
        return f"{self.path}.{name}" if self.path else name

    def refused(self, name: str, problem: str, *, code: str | None = None) -> Refused:
        """Make the refusal of one member: `<path> <problem>`."""
        return invalid(f"{self.name_of(name)} {problem}", param=self.name_of(name), code=code)

    def text(self, name: str) -> str | None:
        """Take a string; None when it is absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.mistyped(name, "a string")
        return value

    def flag(self, name: str) -> bool:
        """Take a boolean; False when it is absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.mistyped(name, "a boolean")
        return bool(value)

    def members(self, name: str) -> "Members":
        """Take an object; an empty one when it is absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.mistyped(name, "an object")
        return Members(value or {}, self.name_of(name))

    def each(self, name: str) -> Iterator["Members"]:
        """Take the objects of an array; none when it is absent."""
        value = self.values.get(name)
        if value is None:
            return
        if not isinstance(value, list):
            raise self.mistyped(name, "an array")
        for number, item in enumerate(value):
            path = f"{self.name_of(name)}[{number}]"
            if not isinstance(item, dict):
                raise invalid(f"{path} is {json_word(item)}; an object is expected", param=path, code="type_invalid")
            yield Members(item, path)

    def mistyped(self, name: str, expected: str) -> Refused:
        """Make the refusal of a member of the wrong type."""
        word = json_word(self.values.get(name))
        return self.refused(name, f"is {word}; {expected} is expected", code="type_invalid")
