"""
An oracle: the counts in (a prefix of) an event stream, read the slow way and sharing no code with the product.

It takes the whole text apart with regular expressions, parses every event with the standard library, and applies each
provider's rule as a sentence would say it.
"""

import json
import re
from collections.abc import Iterator

Numbers = dict[str, int]


def messages_in(body: bytes) -> Iterator[dict[str, object]]:
    """Yield the JSON objects of a stream's events; the last one also without its empty line, if it is whole."""
    text = re.sub(rb"\r\n|\r", b"\n", body.removeprefix(b"\xef\xbb\xbf"))
    for block in re.split(rb"\n\n+", text):
        data = [re.sub(rb"^data: ?", b"", line) for line in block.split(b"\n") if re.match(rb"data(:|$)", line)]
        try:
            message = json.loads(b"\n".join(data))
        except ValueError:
            continue
        if isinstance(message, dict):
            yield message


def google_counts(messages: Iterator[dict[str, object]]) -> Numbers:
    """The last `usageMetadata` that has any count, as a whole."""
    last: dict[str, int] = {}
    for message in messages:
        response = message.get("response", message)
        usage = response.get("usageMetadata") if isinstance(response, dict) else None
        numbers = {key: value for key, value in (usage or {}).items() if key.endswith("Count") and value is not None}
        last = numbers or last
    if not last:
        return {}
    counts = {
        "input_tokens": last.get("promptTokenCount", 0) + last.get("toolUsePromptTokenCount", 0),
        "output_tokens": last.get("candidatesTokenCount", 0) + last.get("thoughtsTokenCount", 0),
    }
    for name, key in (("cache_read_input_tokens", "cachedContentTokenCount"), ("total_tokens", "totalTokenCount")):
        if key in last:
            counts[name] = last[key]
    return counts


def anthropic_counts(messages: Iterator[dict[str, object]]) -> Numbers:
    """The start's usage, with what each delta says written over it."""
    usage: dict[str, object] = {}
    for message in messages:
        said: object = None
        if message.get("type") == "message_start":
            usage, said = {}, message["message"].get("usage")  # type: ignore[attr-defined]
        elif message.get("type") == "message_delta":
            said = message.get("usage")
        for key, value in (said or {}).items():  # type: ignore[attr-defined]
            if value is not None:
                usage[key] = value
    counts: Numbers = {}
    if "input_tokens" in usage:
        parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        counts["input_tokens"] = sum(usage.get(part, 0) for part in parts)  # type: ignore[misc]
    for name in ("output_tokens", "cache_read_input_tokens"):
        if name in usage:
            counts[name] = usage[name]  # type: ignore[assignment]
    return counts


COUNTS = {
    "google-cloudcode": google_counts,
    "google-generate-content": google_counts,
    "anthropic-messages": anthropic_counts,
}
COMPARED = ("input_tokens", "output_tokens", "cache_read_input_tokens", "total_tokens")


def counts_in(dialect: str, body: bytes) -> Numbers:
    """Return the main counts of a stream, or of its first bytes."""
    return COUNTS[dialect](messages_in(body))
