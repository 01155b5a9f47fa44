"""Usage of the OpenAI family: parts are inside their whole, save where the provider's own total says otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.counts import anomalies_of
from services.dialects.openai_usage import chat_counts, has_chat_counts, has_responses_counts, responses_counts


def usage(prompt: int, completion: int, total: int, *, audio: int | None = None, reasoning: int | None = None) -> dict:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"audio_tokens": audio},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


@pytest.mark.parametrize(
    ("provider", "said", "wholes", "anomalies"),
    [
        ("openai", usage(10, 20, 30, audio=4, reasoning=15), (10, 20), ()),
        ("x_ai", usage(12, 1, 303, reasoning=290), (12, 291), ()),
        ("unknown", usage(12, 1, 303, reasoning=290), (12, 291), ()),  # the sum decides, not the name
        ("mistral_ai", usage(11, 14, 400, audio=375), (386, 14), ()),
        ("gcp.gemini", usage(35, 12, 109), (35, 74), ()),
        ("gcp.gemini", usage(35, 12, 109, reasoning=62), (35, 74), ()),
        ("gcp.gemini", usage(35, 12, 47), (35, 12), ()),
        ("openai", usage(35, 12, 109), (35, 12), ("total_mismatch",)),
        ("openai", usage(35, 12, 40), (35, 12), ("total_mismatch",)),
        ("vercel_ai_gateway", usage(20, 10, 30, reasoning=96), (20, 10), ("reasoning_exceeds_output",)),
    ],
)
def test_only_a_total_that_adds_up_moves_a_count(
    provider: str, said: dict[str, object], wholes: tuple[int, int], anomalies: tuple[str, ...]
) -> None:
    counts = chat_counts(said, provider)
    assert (counts["input_tokens"], counts["output_tokens"]) == wholes
    assert counts["total_tokens"] == said["total_tokens"]
    assert anomalies_of(counts) == anomalies


def test_thinking_that_only_the_total_shows_is_reasoning() -> None:
    assert chat_counts(usage(66, 6, 100), "gcp.gemini")["reasoning_output_tokens"] == 28
    assert "reasoning_output_tokens" not in chat_counts(usage(66, 34, 100), "gcp.gemini")


@pytest.mark.parametrize(
    "said",
    [
        {"prompt_tokens_details": {"cached_tokens": 7}},
        {"prompt_token_details": {"cached_tokens": 7}},
        {"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 3},
        {"cached_tokens": 7},
        {"num_cached_tokens": 7},
        {"cache_read_input_tokens": 7},
        {"prompt_tokens_details": {"cached_tokens": 7}, "prompt_cache_hit_tokens": 6},
        {"prompt_tokens_details": None, "cached_tokens": 7},
    ],
)
def test_what_a_cache_served_has_many_names(said: dict[str, object]) -> None:
    assert chat_counts({"prompt_tokens": 10, **said}, "x") == {"input_tokens": 10, "cache_read_input_tokens": 7}


@pytest.mark.parametrize(
    "said",
    [
        {"prompt_tokens_details": {"cache_write_tokens": 7}},
        {"prompt_tokens_details": {"cache_creation_input_tokens": 7}},
        {"cache_creation_input_tokens": 7},
    ],
)
def test_what_was_written_to_a_cache_has_three_names(said: dict[str, object]) -> None:
    assert chat_counts({"prompt_tokens": 10, **said}, "x") == {"input_tokens": 10, "cache_write_input_tokens": 7}


def test_audio_may_stand_beside_the_details() -> None:
    counts = chat_counts({"prompt_tokens": 11, "completion_tokens": 14, "total_tokens": 400, "audio_tokens": 375}, "x")
    assert counts == {"input_tokens": 386, "output_tokens": 14, "total_tokens": 400, "audio_input_tokens": 375}


def test_responses_of_perplexity_have_words_of_their_own() -> None:
    details = {"cache_read_input_tokens": 3, "cache_creation_input_tokens": 4}
    searches = {"search_web": {"invocation": 2}}
    assert responses_counts({"input_tokens": 9, "input_tokens_details": details, "tool_calls_details": searches}) == {
        "input_tokens": 9,
        "cache_read_input_tokens": 3,
        "cache_write_input_tokens": 4,
        "web_search_requests": 2,
    }


def test_an_absent_count_is_absent_and_a_zero_is_a_zero() -> None:
    assert chat_counts({"prompt_tokens": 7, "total_tokens": 7}, "openai") == {"input_tokens": 7, "total_tokens": 7}
    assert chat_counts({"completion_tokens": 0}, "openai") == {"output_tokens": 0}
    assert responses_counts({"input_tokens": 0}) == {"input_tokens": 0}


@pytest.mark.parametrize(
    ("cost", "counts"), [(0.5, {"cost": 0.5}), (0, {"cost": 0}), ({"total_cost": 1}, {}), (True, {})]
)
def test_a_cost_is_a_number(cost: object, counts: dict[str, float]) -> None:
    assert chat_counts({"cost": cost}, "x") == responses_counts({"cost": cost}) == counts


def test_an_object_without_wholes_is_no_usage() -> None:
    for nothing in ({}, {"prompt_tokens": None}, {"cost": 1}, {"search_context_size": "low"}, {"prompt_tokens": "3"}):
        assert not has_chat_counts(nothing)
        assert not has_responses_counts(nothing)
    assert has_chat_counts({"total_tokens": 0})
    assert has_responses_counts({"output_tokens": 0})


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        (
            {"server_tool_use_details": {"web_search_requests": 2, "web_fetch_requests": 1, "tool_calls_executed": 3}},
            (2, 1),
        ),
        ({"num_search_queries": 4}, (4, None)),
        ({"num_sources_used": 4}, (None, None)),
    ],
)
def test_server_tools_are_counted_where_the_provider_counts_them(
    said: dict[str, object], counts: tuple[int | None, int | None]
) -> None:
    found = chat_counts(said, "x")
    assert (found.get("web_search_requests"), found.get("web_fetch_requests")) == counts


NUMBERS = st.none() | st.integers(0, 400)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["openai", "gcp.gemini"]))
def test_nothing_is_lost_and_nothing_is_made_up(
    prompt: int, completion: int, total: int, audio: int, reasoning: int, provider: str
) -> None:
    """Whatever is added, the result never exceeds the total, nor falls below what was reported."""
    counts = chat_counts(usage(prompt, completion, total, audio=audio, reasoning=reasoning), provider)
    wholes = counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
    reported = (prompt or 0) + (completion or 0)
    assert wholes == reported or reported < wholes == total
