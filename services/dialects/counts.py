"""
Values taken out of a provider's JSON, where nothing is certain: counts, names, objects; and the sums they should keep.

Whatever has another type than expected is as if it were not there. Nothing is repaired: what breaks the provider's own
arithmetic is published as it came, and named.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from orjson import JSONDecodeError, loads

from services.events.usage import Counts

# Ten billion tokens: no response ever used as many, and a hundred such numbers added up are still a count to the ledger
# (services.ledger.entry), which refuses records with anything larger. Costs and credits have the same bound.
COUNT_MAX = 10**10
COUNT_OR_ABSENT = frozenset((int, type(None)))

# Half of a pair, written as an escape. A provider that cuts its answer into tokens may cut a character in two.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

# Ids and model names are short; Bedrock's inference profiles, the longest, have 150 characters.
NAME_CHARACTERS_MAX = 1024

MODALITIES = ("text", "image", "audio", "video", "document")

# Name of the anomaly, the whole, and the parts that together are never more than it.
PARTS_OF_A_WHOLE = (
    ("cache_exceeds_input", "input_tokens", {"cache_read_input_tokens", "cache_write_input_tokens"}),
    ("reasoning_exceeds_output", "output_tokens", {"reasoning_output_tokens"}),
    ("modalities_exceed_input", "input_tokens", {f"{modality}_input_tokens" for modality in MODALITIES}),
    ("modalities_exceed_output", "output_tokens", {f"{modality}_output_tokens" for modality in MODALITIES}),
)
_SUM = {"input_tokens", "output_tokens", "total_tokens"}


def json_of(text: bytes) -> object:
    """
    Parse one JSON text, also one that only the strict parser refuses.

    Answers of models have such texts in strings and log probabilities, beside counts that are right: half a surrogate
    pair, bytes that are not UTF-8 (which a client's decoder replaces), `NaN` and `Infinity` (as Python writes them). In
    what is returned, these are replacement characters and None.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return loads(text)
    except JSONDecodeError:
        return _json_of_lenient(text)


def json_or_none(text: bytes) -> object:
    """As `json_of`; None for what is not JSON."""
    try:
        return json_of(text)
    except ValueError:
        return None


def _json_of_lenient(text: bytes) -> object:
    readable = _SURROGATE_ESCAPE.sub(rb"\\ufffd", text).decode("utf-8", "replace")
    try:
        return json.loads(readable, parse_constant=lambda _: None, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


def count_of(value: object) -> int | None:
    """Return `value` if it is a count: a whole number, perhaps written as `12.0`."""
    if type(value) is int:
        return value if -COUNT_MAX <= value <= COUNT_MAX else None
    if type(value) is float and value.is_integer() and abs(value) <= COUNT_MAX:
        return int(value)
    return None


def counts_of(values: Iterable[Any]) -> tuple[int | None, ...]:
    """As `count_of`, for several values at once, which nearly always are counts or absent."""
    found = tuple(values)
    if COUNT_OR_ABSENT.issuperset(map(type, found)) and sum(map(abs, filter(None, found))) <= COUNT_MAX:
        return found
    return tuple(map(count_of, found))


def name_of(value: object) -> str | None:
    """Return `value` if it is a name: text, not empty, of reasonable length."""
    return value if type(value) is str and 0 < len(value) <= NAME_CHARACTERS_MAX else None


def object_of(value: object) -> dict[str, object]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if type(value) is dict else {}


def objects_of(value: object) -> list[dict[str, object]]:
    """Return the JSON objects in `value` if it is an array, else none."""
    return [item for item in value if type(item) is dict] if type(value) is list else []


def cost_of(value: object) -> int | float | None:
    """Return a cost where it is a number; Perplexity's is an object of several."""
    if type(value) is int or type(value) is float:
        return value if -COUNT_MAX <= value <= COUNT_MAX else None
    return None


def without_absent(counts: Mapping[str, int | float | None]) -> dict[str, int | float]:
    """Return those of `counts` that were reported."""
    return {name: count for name, count in counts.items() if count is not None}


def anomalies_of(counts: Counts) -> tuple[str, ...]:
    """
    Name the sums that `counts` break.

    The invariants hold for every provider's own numbers save a few known gateways: parts never exceed their whole, and
    a reported total is input plus output. A sum is judged only where all of it was reported.
    """
    found = []
    if min(counts.values(), default=0) < 0:
        found.append("negative_count")
    names = counts.keys()
    for anomaly, whole, parts in PARTS_OF_A_WHOLE:
        reported = names & parts
        if reported and whole in counts and sum(map(counts.__getitem__, reported)) > counts[whole]:
            found.append(anomaly)
    if _SUM <= names:
        if counts["input_tokens"] + counts["output_tokens"] != counts["total_tokens"]:
            found.append("total_mismatch")
    return tuple(found)


def error_name_of(error: object) -> str | None:
    """
    Return the provider's own word for an error object.

    Google's `status` ("UNAVAILABLE"), else Anthropic's and OpenAI's `type`, else `code`, which may be a number.
    """
    members = object_of(error)
    code = count_of(members.get("code"))
    named = name_of(members.get("status")) or name_of(members.get("type")) or name_of(members.get("code"))
    return named or (None if code is None else str(code))
