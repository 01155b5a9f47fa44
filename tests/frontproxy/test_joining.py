"""Usage of a turn."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from services.events.exchange import Timing, UsageRecorded
from services.events.usage import Outcome
from services.frontproxy.joining import QUIET_S, RECORDS_MAX, UsageJoin

RECORD = UsageRecorded(
    event_id="e1",
    at="2026-11-23T12:00:00Z",
    exchange_id="x1",
    provider="gcp.gen_ai",
    dialect="google-cloudcode",
    operation="generate_content",
    host="simulated.wiremeter.invalid",
    model="gemini",
    response_id="r1",
    outcome=Outcome.OK,
    usage={"input_tokens": 10, "output_tokens": 3, "reasoning_output_tokens": 1},
    timing=Timing(started_at="2026-11-23T12:00:00Z"),
    turn_id="t1",
)


def record(number: int, **members: object) -> UsageRecorded:
    return dataclasses.replace(RECORD, event_id=f"e{number}", response_id=f"r{number}", **members)


def join() -> UsageJoin:
    return UsageJoin(wait_s=3.0)


def test_named_responses_are_waited_for_and_no_longer():
    """When the language server names its responses the answer waits for exactly these."""
    subject = join()
    subject.feed(record(1), 10.0)
    subject.end(["r1", "r2"], 11.0)
    assert not subject.is_settled(11.0)
    subject.feed(record(2), 11.1)
    assert subject.is_settled(11.1)
    assert subject.usage().complete


def test_without_names_a_pause_settles_it():
    """One record and a pause are enough when nobody says how many there are."""
    subject = join()
    subject.end([], 11.0)
    assert not subject.is_settled(12.0)
    subject.feed(record(1), 12.0)
    assert not subject.is_settled(12.0)
    assert subject.wake_at_s() == 12.0 + QUIET_S
    assert subject.is_settled(12.0 + QUIET_S)


def test_a_record_from_long_before_the_end_does_not_cut_the_wait():
    """The pause is counted from the answer's end: the last call of a turn is reported after it."""
    subject = join()
    subject.feed(record(1), 1.0)
    subject.end([], 11.0)
    assert not subject.is_settled(11.0)
    assert subject.is_settled(11.0 + QUIET_S)


def test_the_wait_has_a_limit_and_the_sum_then_says_that_it_is_a_bound():
    """An answer is not held back for usage that never comes."""
    subject = join()
    subject.end(["r1", "r2"], 11.0)
    subject.feed(record(1), 11.0)
    assert subject.is_settled(14.0)
    usage = subject.usage()
    assert usage.counts["input_tokens"] == 10
    assert not usage.complete


def test_nothing_reported_is_unknown_not_zero():
    """No record: no counts at all."""
    subject = join()
    subject.end([], 11.0)
    usage = subject.usage()
    assert (usage.calls, usage.counts, usage.complete) == (0, {}, False)


def test_truncated_and_silent_responses_make_the_sum_a_bound():
    """A sum over bounds is a bound."""
    for outcome in (Outcome.TRUNCATED, Outcome.NO_USAGE, Outcome.UNREADABLE):
        subject = join()
        subject.end([], 11.0)
        subject.feed(record(1), 11.0)
        subject.feed(record(2, outcome=outcome, usage={}), 11.0)
        assert not subject.usage().complete


def test_a_record_told_twice_counts_once():
    """The same event id is the same response."""
    subject = join()
    subject.feed(record(1), 10.0)
    subject.feed(record(1), 10.1)
    assert subject.usage().calls == 1


def test_usage_is_told_by_model():
    """A turn that used two models says what each cost."""
    subject = join()
    subject.feed(record(1), 10.0)
    subject.feed(record(2, model="small", usage={"input_tokens": 5}), 10.0)
    subject.feed(record(3, model=None, usage={}, outcome=Outcome.ERROR), 10.0)
    usage = subject.usage()
    assert {each.model: dict(each.counts) for each in usage.by_model} == {
        "gemini": {"input_tokens": 10, "output_tokens": 3, "reasoning_output_tokens": 1},
        "small": {"input_tokens": 5},
        "unknown": {},
    }
    assert usage.counts["input_tokens"] == 15
    assert [dict(each.outcomes) for each in usage.by_model] == [{"ok": 1}, {"ok": 1}, {"error": 1}]


def test_a_flood_of_records_is_bounded_and_said():
    """Memory has a limit, and the sum is then called incomplete."""
    subject = join()
    for number in range(RECORDS_MAX + 5):
        subject.feed(record(number), 10.0)
    assert subject.usage().calls == RECORDS_MAX
    assert not subject.usage().complete


COUNTS = st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "cost"]), st.integers(0, 10**9))


@given(st.lists(COUNTS, max_size=20))
def test_sums_are_exact_and_present_only_where_reported(reports: list[dict[str, int]]):
    """A name is in the sum if and only if some response reported it."""
    subject = join()
    for number, counts in enumerate(reports):
        subject.feed(record(number, usage=counts), 10.0)
    names = {name for counts in reports for name in counts}
    assert subject.usage().counts == {name: sum(counts.get(name, 0) for counts in reports) for name in names}
