"""
What one response of a provider reported: outcome, identity, and counts by name.

The names are those of the OpenTelemetry GenAI conventions made flat by one rule: drop `gen_ai.usage.`, `gen_ai.` or
`ext.`, turn dots into underscores. A count is present if and only if the provider reported it: absent means "not
said", 0 means "said none".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

Counts: TypeAlias = Mapping[str, int | float]

# The counts that people add up: everything else in COUNT_MEANING is a part of one of these two, or no token count.
WHOLE_COUNTS = ("input_tokens", "output_tokens")

# Name of a count -> what it counts. "Part of" means: already inside, never add it on top.
COUNT_MEANING: Mapping[str, str] = {
    "input_tokens": "all input: fresh, cache reads, cache writes and tool results",
    "output_tokens": "all output, reasoning included",
    "cache_read_input_tokens": "part of input_tokens: served from a cache",
    "cache_write_input_tokens": "part of input_tokens: written to a cache",
    "cache_write_5m_input_tokens": "part of cache_write_input_tokens: kept for five minutes",
    "cache_write_1h_input_tokens": "part of cache_write_input_tokens: kept for an hour",
    "tool_use_prompt_input_tokens": "part of input_tokens: tool results fed back during the request",
    "reasoning_output_tokens": "part of output_tokens: spent on reasoning",
    "text_input_tokens": "part of input_tokens: text",
    "image_input_tokens": "part of input_tokens: images",
    "audio_input_tokens": "part of input_tokens: audio",
    "video_input_tokens": "part of input_tokens: video",
    "document_input_tokens": "part of input_tokens: documents",
    "text_output_tokens": "part of output_tokens: text",
    "image_output_tokens": "part of output_tokens: images",
    "audio_output_tokens": "part of output_tokens: audio",
    "video_output_tokens": "part of output_tokens: video",
    "document_output_tokens": "part of output_tokens: documents",
    "text_cache_read_input_tokens": "part of cache_read_input_tokens: text",
    "image_cache_read_input_tokens": "part of cache_read_input_tokens: images",
    "audio_cache_read_input_tokens": "part of cache_read_input_tokens: audio",
    "video_cache_read_input_tokens": "part of cache_read_input_tokens: video",
    "document_cache_read_input_tokens": "part of cache_read_input_tokens: documents",
    "accepted_prediction_output_tokens": "part of output_tokens: predicted outputs that were used",
    "rejected_prediction_output_tokens": "part of output_tokens: predicted outputs that were not",
    "image_tokens": "images, where the provider counts them beside the input",
    "total_tokens": "the provider's own total, as reported",
    "web_search_requests": "web searches that the provider counted",
    "web_fetch_requests": "web fetches that the provider counted",
    "search_units": "the provider's search units",
    "billed_input_tokens": "input as the provider bills it, where it says so beside the tokens",
    "billed_output_tokens": "output as the provider bills it, where it says so beside the tokens",
    "cost": "cost in the provider's currency unit, where the usage object has it",
    "consumed_credits": "Cloud Code credits",
}


class Outcome(StrEnum):
    """How a response ended, and with that what its counts are worth."""

    OK = "ok"  # complete, counts are final
    BLOCKED = "blocked"  # the prompt was refused by a filter
    ERROR = "error"  # HTTP status of 400 and above, or an error inside the stream
    TRUNCATED = "truncated"  # broken off: the last counts seen are a lower bound
    NO_USAGE = "no_usage"  # complete, nothing reported: unknown, never zero
    UNREADABLE = "unreadable"  # could not be read: unknown, `reason` says why


# Nobody changes one, but a frozen dataclass of so many members takes five times as long to make.
@dataclass(slots=True, kw_only=True)
class ResponseUsage:
    """
    What one response said about itself.

    Attributes:
        outcome: How it ended.
        operation: `chat`, `generate_content`, `text_completion`, `embeddings`, …
        counts: By name, see `COUNT_MEANING`; only what was reported.
        request_model: Model asked for, from the body or the path.
        response_model: Model that the response names.
        response_id: The provider's id of the response.
        trace_id: Cloud Code's `traceId`.
        conversation_id: The client's own id of the conversation, where the request carries one.
        finish_reasons: The provider's words, one per choice, in choice order.
        error_type: HTTP status of an error answer, or the provider's code of an error inside the stream.
        error_code: The provider's own word for an error answer, beside its HTTP status.
        service_tier: Tier that served the request.
        block_reason: Gemini's `promptFeedback.blockReason`.
        iteration_type: On extra records of one response: `compaction`, `advisor_message`, `message`.
        reason: Why nothing could be read (`unreadable`), or why it broke off (`truncated`), in lower-case words for
            people.
        anomalies: Names of the provider's own sums that do not add up; the counts stay as reported.
    """

    outcome: Outcome
    operation: str
    counts: Counts = field(default_factory=dict)
    request_model: str | None = None
    response_model: str | None = None
    response_id: str | None = None
    trace_id: str | None = None
    conversation_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    error_type: str | None = None
    error_code: str | None = None
    service_tier: str | None = None
    block_reason: str | None = None
    iteration_type: str | None = None
    reason: str | None = None
    anomalies: tuple[str, ...] = ()
