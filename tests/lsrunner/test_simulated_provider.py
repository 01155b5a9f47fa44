"""The simulated provider's answers: the shapes of the real one, counts that anyone can check."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.lsrunner.simulated_provider import (
    CHECKPOINT_MODEL,
    MODELS,
    Problem,
    Prompt,
    answer_to,
    error_body,
    events_for,
    prompt_in,
    tokens_in,
)


def body(*texts: str, model: str = "simulated-flash", system: str | None = None) -> dict[str, object]:
    """Write a call."""
    request: dict[str, object] = {"contents": [{"role": "user", "parts": [{"text": text}]} for text in texts]}
    if system is not None:
        request["systemInstruction"] = {"parts": [{"text": system}]}
    return {"model": model, "request": request}


def usage_of(prompt: Prompt) -> list[dict[str, int]]:
    """Return the counts of each event."""
    return [event["response"]["usageMetadata"] for event in events_for(prompt, "R")]


def test_counts_follow_from_the_texts():
    """One token for each four characters begun."""
    assert [tokens_in(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
    last = usage_of(prompt_in(body("hello")))[-1]
    thought, said = answer_to(prompt_in(body("hello")))
    candidates, thoughts = tokens_in("".join(said)), tokens_in(thought)
    assert last == {
        "promptTokenCount": 2,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": 2 + candidates + thoughts,
    }


def test_what_an_earlier_call_had_is_cached_and_told_at_the_end():
    """In the last event only, and inside the prompt's count."""
    counts = usage_of(prompt_in(body("hello", "an answer", "more", system="be brief")))
    assert ["cachedContentTokenCount" in each for each in counts] == [False] * (len(counts) - 1) + [True]
    assert counts[-1]["cachedContentTokenCount"] == 2 + 3 + 2
    assert counts[-1]["promptTokenCount"] == 2 + 2 + 3 + 1


def test_it_says_what_it_is():
    """Nobody shall take it for a model."""
    assert "Wiremeter's simulated model simulated-pro" in "".join(
        answer_to(prompt_in(body("x", model="simulated-pro")))[1]
    )
    assert all("no real model" in name for name in MODELS.values())


def test_the_end_has_a_reason_and_only_the_end():
    """As the real one writes it."""
    candidates = [event["response"]["candidates"][0] for event in events_for(prompt_in(body("x")), "R")]
    assert [each.get("finishReason") for each in candidates] == [None] * (len(candidates) - 1) + ["STOP"]
    assert candidates[0]["content"]["parts"][0]["thought"] is True


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ({}, 404),
        (body("x", model="gemini-3-flash"), 404),
        ({"model": "simulated-flash"}, 400),
        (body(), 400),
        ({"model": "simulated-flash", "request": {"contents": [7]}}, 400),
        (body("simulate error 503, please"), 503),
    ],
)
def test_a_call_that_is_none_gets_an_error(call, status):
    """In Google's form."""
    with pytest.raises(Problem) as caught:
        prompt_in(call)
    assert caught.value.status == status
    assert error_body(caught.value)["error"]["code"] == status


def test_the_small_model_names_conversations():
    """Without thinking, and whatever the prompt quotes."""
    prompt = prompt_in(body("Name this conversation: simulate error 503", model=CHECKPOINT_MODEL))
    assert answer_to(prompt) == ("", ("A simulated conversation",))
    assert all("thoughtsTokenCount" not in each for each in usage_of(prompt))


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.sampled_from([*MODELS, CHECKPOINT_MODEL]))
def test_counts_are_cumulative_and_add_up(texts, model):
    """In every event: thoughts beside the candidates, the cache inside the prompt."""
    try:
        prompt = prompt_in(body(*texts, model=model))
    except Problem:
        return
    before = 0
    for counts in usage_of(prompt):
        parts = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
        assert counts["totalTokenCount"] == sum(counts.get(part, 0) for part in parts) >= before
        assert counts.get("cachedContentTokenCount", 0) <= counts["promptTokenCount"]
        before = counts["totalTokenCount"]
