"""
An oracle: the counts in (a prefix of) a stream, read the slow way and sharing no code with the product.

It takes the whole text apart with regular expressions (AWS event streams: with botocore), parses every event with the
standard library, and applies each provider's rule as a sentence would say it.
"""

import base64
import json
import re
from collections.abc import Iterator

from botocore.eventstream import EventStreamBuffer

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


def lines_in(body: bytes) -> Iterator[dict[str, object]]:
    """Yield the JSON objects of JSON lines; the last one also without its line end, if it is whole."""
    for line in body.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict):
            yield message


def aws_events_in(body: bytes) -> Iterator[dict[str, object]]:
    """Yield the whole events of an AWS event stream: under their names, or what is in their `bytes`."""
    buffer = EventStreamBuffer()
    buffer.add_data(b"" if body.startswith(b"{") else body)  # a gateway's JSON has no counts
    for message in buffer:
        payload = json.loads(message.payload or b"{}")
        if "bytes" in payload:
            yield json.loads(base64.b64decode(payload["bytes"]))
        elif ":event-type" in message.headers:
            yield {message.headers[":event-type"]: payload}


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


def openai_chat_counts(messages: Iterator[dict[str, object]], provider: str = "") -> Numbers:
    """The last usage that has any count, wherever a chunk has it; with what its total shows to stand outside."""
    last: dict[str, object] = {}
    for message in messages:
        choices = [choice for choice in message.get("choices") or [] if isinstance(choice, dict)]  # type: ignore[attr-defined]
        for place in (message.get("x_groq"), *reversed(choices), message):
            usage = place.get("usage") if isinstance(place, dict) else None
            if usage and any(usage.get(f"{whole}_tokens") is not None for whole in ("prompt", "completion", "total")):
                last = usage
    counts = {}
    names = {"input_tokens": "prompt", "output_tokens": "completion", "total_tokens": "total"}
    for name, whole in names.items():
        if last.get(f"{whole}_tokens") is not None:
            counts[name] = last[f"{whole}_tokens"]
    prompt_details = last.get("prompt_tokens_details") or last.get("prompt_token_details") or {}
    answer_details = last.get("completion_tokens_details") or last.get("completion_token_details") or {}
    cached = [prompt_details.get("cached_tokens")]  # type: ignore[attr-defined]
    cached += [last.get(f"{name}_tokens") for name in ("prompt_cache_hit", "cached", "num_cached", "cache_read_input")]
    for number in [number for number in cached if number is not None][:1]:
        counts["cache_read_input_tokens"] = number
    if len(counts.keys() & names.keys()) == len(names):
        outside = counts["total_tokens"] - counts["input_tokens"] - counts["output_tokens"]  # type: ignore[operator]
        if outside > 0 and outside == prompt_details.get("audio_tokens"):  # type: ignore[attr-defined]
            counts["input_tokens"] += outside  # type: ignore[operator]
        elif outside > 0 and (provider == "gcp.gemini" or outside == answer_details.get("reasoning_tokens")):  # type: ignore[attr-defined]
            counts["output_tokens"] += outside  # type: ignore[operator]
    return counts  # type: ignore[return-value]


def openai_responses_counts(messages: Iterator[dict[str, object]]) -> Numbers:
    """The usage of the last `response` that has one."""
    last: dict[str, object] = {}
    for message in messages:
        place = message.get("response") or message
        last = (place.get("usage") if isinstance(place, dict) else None) or last
    counts = {name: last[name] for name in ("input_tokens", "output_tokens", "total_tokens") if name in last}
    cached = (last.get("input_tokens_details") or {}).get("cached_tokens")  # type: ignore[attr-defined]
    return counts | ({} if cached is None else {"cache_read_input_tokens": cached})  # type: ignore[return-value]


def bedrock_counts(messages: Iterator[dict[str, object]]) -> Numbers:
    """Converse's and Nova's metadata; Anthropic's own numbers; else those of the last chunk that has any."""
    every = list(messages)
    if any(str(message.get("type")).startswith("message_") for message in every):
        return anthropic_counts(iter(every))
    counts: Numbers = {}
    names = {"prompt_token_count": "input_tokens", "inputTextTokenCount": "input_tokens"}
    names |= {"generation_token_count": "output_tokens", "totalOutputTextTokenCount": "output_tokens"}
    for message in every:
        usage = (message.get("metadata") or {}).get("usage") or {}  # type: ignore[attr-defined]
        for name in ("inputTokens", "outputTokens", "totalTokens"):
            if name in usage:
                cached = [
                    usage.get(f"cache{how}InputTokens", usage.get(f"cache{how}InputTokenCount"))
                    for how in ("Read", "Write")
                ]
                flat = re.sub("Tokens", "_tokens", name)
                counts[flat] = usage[name] + (sum(filter(None, cached)) if flat == "input_tokens" else 0)
                if cached[0] is not None:
                    counts["cache_read_input_tokens"] = cached[0]
        for name, count in names.items():
            if message.get(name) is not None:
                counts[count] = message[name]  # type: ignore[assignment]
    for message in every:
        metrics = message.get("amazon-bedrock-invocationMetrics") or {}
        for name, count in (("inputTokenCount", "input_tokens"), ("outputTokenCount", "output_tokens")):
            if name in metrics and count not in counts:  # type: ignore[operator]
                counts[count] = metrics[name]  # type: ignore[index]
    return counts


def cohere_counts(messages: Iterator[dict[str, object]]) -> Numbers:
    """The tokens of the end, or what it bills where it has no tokens."""
    counts: Numbers = {}
    for message in messages:
        end = message.get("delta") or message.get("response") or message
        usage = (end.get("usage") or end.get("meta") or {}) if isinstance(end, dict) else {}
        tokens = usage.get("tokens") or usage.get("billed_units") or {}
        counts |= {name: tokens[name] for name in ("input_tokens", "output_tokens") if name in tokens}
        if "cached_tokens" in usage:
            counts["cache_read_input_tokens"] = usage["cached_tokens"]
    return counts


def ollama_counts(messages: Iterator[dict[str, object]]) -> Numbers:
    """What the object says that is done."""
    names = {"input_tokens": "prompt_eval_count", "output_tokens": "eval_count"}
    done = [message for message in messages if message.get("done")]
    return {name: done[-1][key] for name, key in names.items() if key in done[-1]} if done else {}  # type: ignore[misc]


def interactions_counts(messages: Iterator[dict[str, object]]) -> Numbers:
    """The usage of the last interaction that has one."""
    last: dict[str, int] = {}
    for message in messages:
        last = (message.get("interaction") or {}).get("usage") or last  # type: ignore[attr-defined]
    if not last:
        return {}
    return {
        "input_tokens": last["total_input_tokens"] + last.get("total_tool_use_tokens", 0),
        "output_tokens": last["total_output_tokens"] + last.get("total_thought_tokens", 0),
        **({"cache_read_input_tokens": last["total_cached_tokens"]} if "total_cached_tokens" in last else {}),
        "total_tokens": last["total_tokens"],
    }


COUNTS = {
    "google-cloudcode": google_counts,
    "google-generate-content": google_counts,
    "anthropic-messages": anthropic_counts,
    "bedrock-converse": bedrock_counts,
    "bedrock-invoke": bedrock_counts,
    "cohere-chat": cohere_counts,
    "google-interactions": interactions_counts,
    "ollama-native": ollama_counts,
    "openai-chat": openai_chat_counts,
    "openai-completions": openai_chat_counts,
    "openai-images": openai_responses_counts,
    "openai-responses": openai_responses_counts,
}
COMPARED = ("input_tokens", "output_tokens", "cache_read_input_tokens", "total_tokens")


# Content type -> what takes its streams apart.
FRAMINGS = {
    "text/event-stream": messages_in,
    "application/vnd.amazon.eventstream": aws_events_in,
    "application/x-ndjson": lines_in,
    "application/stream+json": lines_in,
}


def is_stream(content_type: str) -> bool:
    """Return whether a body of this content type is a stream."""
    return content_type.partition(";")[0] in FRAMINGS


def counts_in(dialect: str, body: bytes, provider: str = "", content_type: str = "text/event-stream") -> Numbers:
    """Return the main counts of a stream, or of its first bytes."""
    messages = FRAMINGS[content_type.partition(";")[0]](body)
    if COUNTS[dialect] is openai_chat_counts:
        return openai_chat_counts(messages, provider)
    return COUNTS[dialect](messages)
