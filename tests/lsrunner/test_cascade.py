"""One turn, read from whatever the language server says about it."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.turn import DeltaKind, FailureKind, StopReason
from services.lsrunner.cascade import (
    Delta,
    Ending,
    TurnReader,
    Update,
    Waiting,
    update_in_stream,
    update_in_trajectory,
)

Step = dict[str, Any]


def step(kind: str, status: str = "DONE", **members: object) -> Step:
    return {"type": f"CORTEX_STEP_TYPE_{kind}", "status": f"CORTEX_STEP_STATUS_{status}", **members}


def planner(
    text: str = "", thinking: str = "", *, status: str = "GENERATING", stop: str = "", response: str = ""
) -> Step:
    members = {"modifiedResponse": text, "thinking": thinking, "response": response}
    content = {name: value for name, value in members.items() if value}
    if stop:
        content["stopReason"] = f"STOP_REASON_{stop}"
    return step("PLANNER_RESPONSE", status, plannerResponse=content)


def used(response_id: str, **members: object) -> dict[str, object]:
    return {"metadata": {"modelUsage": {"responseId": response_id, "inputTokens": "17"}, **members}}


def news(status: str | None = None, steps: dict[int, Step] | None = None, **members: object) -> Update:
    """Make an update as the stream brings it."""
    changed = {"indices": list(steps or {}), "steps": list((steps or {}).values())}
    update: dict[str, object] = {"mainTrajectoryUpdate": {"stepsUpdate": changed}, **members}
    if status:
        update["status"] = f"CASCADE_RUN_STATUS_{status}"
    return update_in_stream({"update": update})


def said(reader: TurnReader, *updates: Update) -> list[tuple[str, str]]:
    return [(delta.kind.value, delta.text) for update in updates for delta in reader.feed(update)]


PROMPT = {0: step("USER_INPUT"), 1: step("CONVERSATION_HISTORY")}
PLAIN_TURN = (
    news("IDLE"),
    news("RUNNING", PROMPT),
    news("RUNNING", {2: planner(thinking="Hm.")}),
    news("RUNNING", {2: planner("Hel", "Hm. Yes.")}),
    news("RUNNING", {2: planner("Hello", "Hm. Yes.")}),
    news("RUNNING", {2: planner("Hello", "Hm. Yes.", status="DONE", stop="STOP_PATTERN") | used("r1")}),
    news("RUNNING", {3: step("CHECKPOINT", **used("r2", retryInfos=[{"usage": {"responseId": "r2"}}]))}),
    news("IDLE"),
)


def test_a_plain_turn() -> None:
    reader = TurnReader(0)
    assert said(reader, *PLAIN_TURN) == [
        ("thinking", "Hm."),
        ("thinking", " Yes."),
        ("text", "Hel"),
        ("text", "lo"),
    ]
    assert reader.seems_over
    assert reader.ending() == Ending(stop_reason=StopReason.END, failure=None, response_ids=("r1", "r2"))


def test_a_turn_is_over_at_its_last_update_and_not_before() -> None:
    reader = TurnReader(0)
    stands = [(reader.feed(update), reader.seems_over)[1] for update in PLAIN_TURN]
    assert stands == [False] * 7 + [True]
    assert repr(reader) == "<TurnReader over, IDLE, 4 steps>"


def trajectory_after(updates: tuple[Update, ...]) -> Update:
    """Make what GetCascadeTrajectory would say at that moment."""
    steps: dict[int, Any] = {}
    status = "IDLE"
    for update in updates:
        steps |= update.steps
        status = update.status or status
    whole = {
        "trajectory": {"trajectoryId": "t", "steps": [steps[i] for i in sorted(steps)]},
        "status": f"CASCADE_RUN_STATUS_{status}",
        "numTotalSteps": len(steps),
    }
    return update_in_trajectory(json.loads(json.dumps(whole)))


@given(st.lists(st.sampled_from(["stream", "poll", "both", "again", "nothing"]), min_size=8, max_size=8))
def test_streamed_polled_repeated_or_missed_the_answer_is_the_same(ways: list[str]) -> None:
    """Updates are cumulative, so what is missed or heard twice changes nothing but the size of the pieces."""
    reader = TurnReader(0)
    deltas: list[Delta] = []
    for number, way in enumerate(ways):
        until = PLAIN_TURN[: number + 1]
        if way in ("stream", "both", "again"):
            deltas += reader.feed(PLAIN_TURN[number])
        if way in ("poll", "both"):
            deltas += reader.feed(trajectory_after(until))
        if way == "again":
            deltas += reader.feed(PLAIN_TURN[number])
    deltas += reader.feed(trajectory_after(PLAIN_TURN))
    assert reader.seems_over
    assert "".join(d.text for d in deltas if d.kind is DeltaKind.TEXT) == "Hello"
    assert "".join(d.text for d in deltas if d.kind is DeltaKind.THINKING) == "Hm. Yes."
    assert reader.ending().response_ids == ("r1", "r2")


@given(st.text(min_size=1, max_size=40), st.lists(st.integers(min_value=0, max_value=40), max_size=10))
def test_text_is_the_same_however_it_grew(text: str, lengths: list[int]) -> None:
    reader = TurnReader(0)
    parts = [*sorted(min(length, len(text)) for length in lengths), len(text)]
    deltas = [d.text for n in parts for d in reader.feed(news("RUNNING", {2: planner(text[:n])}))]
    assert "".join(deltas) == text
    assert "" not in deltas


# --- the end of a turn


def test_idle_before_the_first_step_is_not_the_end() -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE"))
    reader.feed(news("IDLE", PROMPT))
    assert (reader.has_begun, reader.has_steps, reader.seems_over) == (False, True, False)


def test_a_turn_that_was_never_seen_running_is_over_with_its_answer() -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE", {2: planner("Hi", status="DONE", stop="STOP_PATTERN")}))
    assert reader.seems_over


def test_an_update_without_a_status_keeps_the_last_one() -> None:
    reader = TurnReader(0)
    reader.feed(news("RUNNING", PROMPT))
    reader.feed(news(None, {2: planner("Hi")}))
    assert not reader.seems_over


def test_earlier_turns_of_the_conversation_are_not_said_again() -> None:
    reader = TurnReader(4)
    before = {2: planner("old", status="DONE") | used("old"), 3: step("CHECKPOINT")}
    assert said(reader, news("IDLE", PROMPT | before)) == []
    assert not reader.has_begun
    assert said(reader, news("RUNNING", {4: step("USER_INPUT"), 6: planner("new")})) == [("text", "new")]
    assert reader.ending().response_ids == ()


def test_subagents_keep_a_turn_open_where_the_build_says_fully_idle() -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE", fullyIdle=True))
    reader.feed(news("RUNNING", {2: step("INVOKE_SUBAGENT")}))
    reader.feed(news("IDLE"))
    assert not reader.seems_over
    reader.feed(news("IDLE", fullyIdle=True))
    assert reader.seems_over


def test_subagents_of_a_build_that_never_says_fully_idle_end_with_idle() -> None:
    reader = TurnReader(0)
    reader.feed(news("RUNNING", {2: step("INVOKE_SUBAGENT")}))
    reader.feed(news("IDLE"))
    assert reader.seems_over


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("STOP_PATTERN", StopReason.END),
        ("MAX_TOKENS", StopReason.LENGTH),
        ("CONTENT_FILTER", StopReason.REFUSED),
        ("CLIENT_CANCELED", StopReason.CANCELLED),
        ("SOMETHING_NEW", StopReason.END),
        ("", StopReason.END),
    ],
)
def test_stop_reasons(stop: str, reason: StopReason) -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE", {2: planner("Hi", status="DONE", stop=stop)}))
    assert reader.ending().stop_reason is reason


def test_a_step_that_was_cancelled_ends_the_turn_as_cancelled() -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE", {2: planner("Hi", status="CANCELED")}))
    assert reader.ending().stop_reason is StopReason.CANCELLED


# --- failures


def error_step(code: int | None = 503, short: str = "UNAVAILABLE (code 503): No capacity", **members: object) -> Step:
    error: dict[str, object] = {"shortError": short, "fullError": "Headers: secret", **members}
    if code is not None:
        error["errorCode"] = code
    return step("ERROR_MESSAGE", errorMessage={"error": error})


def test_an_error_at_the_end_is_the_failure() -> None:
    reader = TurnReader(0)
    reader.feed(news("RUNNING", PROMPT | {2: error_step()}))
    reader.feed(news("IDLE"))
    failure = reader.ending().failure
    assert failure is not None
    assert (failure.kind, failure.status) == (FailureKind.UPSTREAM, 503)
    assert failure.message == "the provider refused: UNAVAILABLE (code 503): No capacity"


def test_an_error_that_an_answer_follows_has_passed() -> None:
    reader = TurnReader(0)
    reader.feed(news("RUNNING", {2: error_step(), 3: planner("Hi", status="DONE", stop="STOP_PATTERN")}))
    reader.feed(news("IDLE", {4: step("CHECKPOINT", "ERROR")}))
    assert reader.ending().stop_reason is StopReason.END


def test_an_answer_that_an_error_follows_is_a_failure() -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE", {2: planner("Hi", status="DONE", stop="CLIENT_STREAM_ERROR"), 3: error_step(None)}))
    failure = reader.ending().failure
    assert failure is not None
    assert failure.status is None


@pytest.mark.parametrize("stop", ["ERROR", "CLIENT_STREAM_ERROR", "CLIENT_LOOPING"])
def test_an_answer_that_broke_off_without_a_word_is_a_failure(stop: str) -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE", {2: planner("Hi", status="DONE", stop=stop)}))
    failure = reader.ending().failure
    assert failure is not None
    assert "broke off" in failure.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (error_step(401, "UNAUTHENTICATED (code 401)"), FailureKind.NOT_READY),
        (error_step(None, "You are not logged into Antigravity."), FailureKind.NOT_READY),
        (error_step(429, "RESOURCE_EXHAUSTED (code 429)"), FailureKind.UPSTREAM),
    ],
)
def test_not_being_signed_in_is_not_the_providers_fault(error: Step, kind: FailureKind) -> None:
    reader = TurnReader(0)
    reader.feed(news("IDLE", {2: error}))
    failure = reader.ending().failure
    assert failure is not None
    assert failure.kind is kind


def test_a_refusal_says_what_a_person_can_do() -> None:
    reader = TurnReader(0)
    detail = json.dumps({"reason": "VALIDATION_REQUIRED"})
    reader.feed(news("IDLE", {2: error_step(403, "PERMISSION_DENIED", rpcErrorDetails=[detail])}))
    failure = reader.ending().failure
    assert failure is not None
    assert failure.message.endswith("the account has to be validated with the vendor")


def test_an_end_without_an_answer_is_a_failure() -> None:
    reader = TurnReader(0)
    reader.feed(news("RUNNING", PROMPT))
    reader.feed(news("IDLE"))
    assert reader.seems_over
    failure = reader.ending().failure
    assert failure is not None
    assert "without an answer" in failure.message


# --- tools, and what waits


def test_tools_are_named_once_and_answers_around_them_stay_apart() -> None:
    reader = TurnReader(0)
    assert said(
        reader,
        news("RUNNING", {2: planner("Looking.", status="DONE", stop="FUNCTION_CALL")}),
        news("RUNNING", {3: step("GREP_SEARCH", "RUNNING")}),
        news("RUNNING", {3: step("GREP_SEARCH"), 4: step("GENERIC", generic={"toolName": "browser_open"})}),
        news("RUNNING", {5: planner("Found.")}),
    ) == [("text", "Looking."), ("tool", "grep search"), ("tool", "browser open"), ("text", "\n\nFound.")]


def test_a_step_that_waits_is_told_with_what_it_wants() -> None:
    reader = TurnReader(0)
    wants = step("RUN_COMMAND", "WAITING", requestedInteraction={"runCommand": {}})
    reader.feed(news("RUNNING", {2: wants}, trajectoryId="t"))
    assert reader.waiting == Waiting(step=2, trajectory_id="t", kinds=("runCommand",))
    reader.feed(news("RUNNING", {2: step("RUN_COMMAND", "CANCELED")}))
    assert reader.waiting is None


# --- shapes that change from build to build


def test_enums_may_be_numbers() -> None:
    reader = TurnReader(0)
    content = {"modifiedResponse": "Hi", "stopReason": 3}
    changed = {"indices": [2], "steps": [{"type": 15, "status": 3, "plannerResponse": content}]}
    assert reader.feed(update_in_stream({"update": {"status": 1, "mainTrajectoryUpdate": {"stepsUpdate": changed}}}))
    assert reader.seems_over
    assert reader.ending().stop_reason is StopReason.LENGTH


def test_the_whole_answer_counts_where_nothing_was_streamed() -> None:
    reader = TurnReader(0)
    assert said(reader, news("IDLE", {2: planner(response="All at once", status="DONE")})) == [("text", "All at once")]


def test_a_text_that_is_rewritten_is_waited_for_and_then_completed() -> None:
    """What was said cannot be unsaid; the rest of the final text is said after it."""
    reader = TurnReader(0)
    assert said(
        reader,
        news("RUNNING", {2: planner("See [the fi")}),
        news("RUNNING", {2: planner("See the file")}),
        news("RUNNING", {2: planner("See [the file](f)")}),
        news("IDLE", {2: planner("See [the file](g) now", status="DONE")}),
    ) == [("text", "See [the fi"), ("text", "le](f)"), ("text", "g) now")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
_MEMBERS = (
    "type status plannerResponse modifiedResponse response thinking stopReason metadata modelUsage responseId"
    " retryInfos usage errorMessage error errorCode shortError rpcErrorDetails requestedInteraction generic toolName"
).split()
steps = st.dictionaries(
    st.sampled_from(_MEMBERS),
    json_values | st.sampled_from([15, 17, 9, "CORTEX_STEP_TYPE_PLANNER_RESPONSE", "CORTEX_STEP_TYPE_ERROR_MESSAGE"]),
)


@given(
    st.lists(st.tuples(json_values, st.lists(st.integers(-2, 5), max_size=3), st.lists(steps, max_size=3)), max_size=5)
)
def test_no_shape_of_an_update_is_an_error(updates: list[tuple[object, list[int], list[Step]]]) -> None:
    reader = TurnReader(0)
    for status, indices, found in updates:
        changed = {"indices": indices, "steps": found, "totalLength": status}
        reader.feed(update_in_stream({"update": {"status": status, "mainTrajectoryUpdate": {"stepsUpdate": changed}}}))
        reader.feed(update_in_trajectory({"status": status, "trajectory": {"steps": found, "trajectoryId": status}}))
        assert reader.seems_over in (True, False)
        assert reader.waiting is None or reader.waiting.step >= 0
    ending = reader.ending()
    assert (ending.stop_reason is None) is (ending.failure is not None)


@given(json_values)
def test_no_json_at_all_is_an_error(value: object) -> None:
    update_in_stream(value)
    update_in_trajectory(value)


def test_every_stand_has_a_name() -> None:
    reader = TurnReader(0)
    names = [repr(reader)]
    for update in itertools.islice(PLAIN_TURN, 2):
        reader.feed(update)
        names.append(repr(reader))
    assert names == [
        "<TurnReader waiting, None, 0 steps>",
        "<TurnReader waiting, IDLE, 0 steps>",
        "<TurnReader begun, RUNNING, 2 steps>",
    ]
