"""
Usage objects of the OpenAI family -> counts: that of Chat Completions, and that of Responses and images.

Source     `openai/openai-python:api_reference/openapi.transformed.yml`, `CompletionUsage` and `ResponseUsage`; the
           relatives' habits counted over some 4,000 recordings.

Chat       prompt_tokens       all input; prompt_tokens_details are parts of it
           completion_tokens   all output; completion_tokens_details are parts of it, rejected predictions too
           total_tokens        the sum of both
Responses  input_tokens, output_tokens, total_tokens, and the details of the first two: the same with better names

Relatives  write the same numbers elsewhere: cached tokens as `prompt_cache_hit_tokens` (DeepSeek), `cached_tokens`
           (Moonshot, Together), `num_cached_tokens` (Mistral) or `cache_read_input_tokens` (Databricks); the details
           in the singular (Writer); reasoning beside the counts (Copilot); what was written to a cache as
           `cache_creation_input_tokens`, among the details (Alibaba) or beside the counts (Databricks). Perplexity's
           Responses name the cache as Anthropic does, and count searches as `tool_calls_details.search_web.invocation`.
Outside    Some count a part beside its whole. Their own total gives them away, and only then is it added:
           total = prompt + completion + reasoning (xAI's chat), total = prompt + audio + completion (Mistral). Gemini's
           OpenAI endpoint hides thinking altogether: there output = total - prompt. What adds up in no such way is
           published as it came.
"""

from services.dialects.counts import cost_of, count_of, object_of, without_absent
from services.events.usage import Counts

CHAT_WHOLES = ("prompt_tokens", "completion_tokens", "total_tokens")
RESPONSES_WHOLES = ("input_tokens", "output_tokens", "total_tokens")

# Where a provider may say how much of the prompt came from its cache; the first that is there counts.
CACHED_FIELDS = ("prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens", "cache_read_input_tokens")

MODALITIES = ("text", "image", "audio", "video")

# The provider whose endpoint shows thinking in its total alone.
HIDES_THINKING = "gcp.gemini"


def has_chat_counts(usage: dict[str, object]) -> bool:
    """Return whether any of its wholes is there: nulls and an object of times or prices are no usage."""
    return any(count_of(usage.get(field)) is not None for field in CHAT_WHOLES)


def has_responses_counts(usage: dict[str, object]) -> bool:
    """Return whether any of its wholes is there."""
    return any(count_of(usage.get(field)) is not None for field in RESPONSES_WHOLES)


def chat_counts(usage: dict[str, object], provider: str) -> Counts:
    """Map the usage object of Chat Completions, legacy completions and embeddings."""
    of_prompt = _details(usage, "prompt_tokens_details", "prompt_token_details")
    of_completion = _details(usage, "completion_tokens_details", "completion_token_details")
    prompt, completion, total = (count_of(usage.get(field)) for field in CHAT_WHOLES)
    reasoning = _first(of_completion.get("reasoning_tokens"), usage.get("reasoning_tokens"))
    audio = _first(of_prompt.get("audio_tokens"), usage.get("audio_tokens"))
    if prompt is not None and total is not None:
        beside = total - prompt - (completion or 0)
        if beside > 0 and provider == HIDES_THINKING:
            completion = total - prompt
            reasoning = beside if reasoning is None else reasoning
        elif completion is not None and beside > 0:
            if beside == reasoning:
                completion += reasoning
            elif beside == audio:
                prompt += audio
    return without_absent(
        {
            "input_tokens": prompt,
            "output_tokens": completion,
            "cache_read_input_tokens": _first(
                of_prompt.get("cached_tokens"), *(usage.get(field) for field in CACHED_FIELDS)
            ),
            "cache_write_input_tokens": _first(
                of_prompt.get("cache_write_tokens"),
                of_prompt.get("cache_creation_input_tokens"),
                usage.get("cache_creation_input_tokens"),
            ),
            "reasoning_output_tokens": reasoning,
            **_modalities(of_prompt, "input_tokens"),
            "audio_input_tokens": audio,
            **_modalities(of_completion, "output_tokens"),
            "accepted_prediction_output_tokens": count_of(of_completion.get("accepted_prediction_tokens")),
            "rejected_prediction_output_tokens": count_of(of_completion.get("rejected_prediction_tokens")),
            "total_tokens": total,
            **_chat_tools(usage),
            "cost": cost_of(usage.get("cost")),
        }
    )


def responses_counts(usage: dict[str, object]) -> Counts:
    """Map the usage object of Responses and of images."""
    of_input, of_output = object_of(usage.get("input_tokens_details")), object_of(usage.get("output_tokens_details"))
    return without_absent(
        {
            "input_tokens": count_of(usage.get("input_tokens")),
            "output_tokens": count_of(usage.get("output_tokens")),
            "cache_read_input_tokens": _first(of_input.get("cached_tokens"), of_input.get("cache_read_input_tokens")),
            "cache_write_input_tokens": _first(
                of_input.get("cache_write_tokens"), of_input.get("cache_creation_input_tokens")
            ),
            "reasoning_output_tokens": count_of(of_output.get("reasoning_tokens")),
            **_modalities(of_input, "input_tokens"),
            **_modalities(of_output, "output_tokens"),
            "total_tokens": count_of(usage.get("total_tokens")),
            **_responses_tools(usage),
            "cost": cost_of(usage.get("cost")),
        }
    )


def _details(usage: dict[str, object], *names: str) -> dict[str, object]:
    for name in names:
        if details := object_of(usage.get(name)):
            return details
    return {}


def _first(*values: object) -> int | None:
    for value in values:
        if (count := count_of(value)) is not None:
            return count
    return None


def _modalities(details: dict[str, object], suffix: str) -> dict[str, int | None]:
    return {f"{modality}_{suffix}": count_of(details.get(f"{modality}_tokens")) for modality in MODALITIES}


def _chat_tools(usage: dict[str, object]) -> dict[str, int | None]:
    """Return the calls of server-side tools that OpenRouter and Perplexity count."""
    used = object_of(usage.get("server_tool_use_details"))
    return {
        "web_search_requests": _first(used.get("web_search_requests"), usage.get("num_search_queries")),
        "web_fetch_requests": count_of(used.get("web_fetch_requests")),
    }


def _responses_tools(usage: dict[str, object]) -> dict[str, int | None]:
    """Return the calls of server-side tools, which only xAI and Perplexity count."""
    calls = object_of(usage.get("server_side_tool_usage_details"))
    searches = object_of(object_of(usage.get("tool_calls_details")).get("search_web"))
    return {"web_search_requests": _first(calls.get("web_search_calls"), searches.get("invocation"))}
