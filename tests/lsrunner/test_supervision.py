"""The life of a language server as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.lifecycle import OfferedModel, ServerState
from services.lsrunner.supervision import (
    BACK_OFF_MAX_S,
    STABLE_S,
    TRANSITIONS,
    ImpossibleInput,
    Input,
    Supervision,
)

MODELS = (OfferedModel(id="m", name="M"),)


def started(start_timeout_s: float = 60.0) -> Supervision:
    """Return one that has begun at 0."""
    subject = Supervision(start_timeout_s)
    subject.take(Input.BEGAN, 0.0)
    return subject


def test_a_life_without_trouble():
    """Stopped, starting, ready, stopping, stopped."""
    subject = started()
    assert repr(subject) == "<Supervision starting, 1 starts, 0 failures in a row>"
    subject.take(Input.BECAME_READY, 2.0, models=MODELS)
    assert (subject.state, subject.models, subject.detail, subject.wake_at_s) == (ServerState.READY, MODELS, None, None)
    subject.take(Input.ASKED_TO_STOP, 3.0)
    assert (subject.state, subject.models) == (ServerState.STOPPING, ())
    subject.take(Input.ENDED, 4.0)
    assert (subject.state, subject.restarts) == (ServerState.STOPPED, 0)


def test_each_failure_in_a_row_doubles_the_pause_up_to_a_minute():
    """1, 2, 4, … 60, 60."""
    subject = Supervision(60.0)
    pauses = []
    for n in range(8):
        subject.take(Input.BEGAN, float(n))
        subject.take(Input.FAILED, float(n), detail="no such program")
        pauses.append(subject.pause_s)
        assert subject.wake_at_s == n + subject.pause_s
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (subject.restarts, subject.detail) == (7, "no such program")


def test_a_thousand_failures_are_counted_without_harm():
    """No number overflows."""
    subject = Supervision(60.0)
    for _ in range(2000):
        subject.take(Input.BEGAN, 0.0)
        subject.take(Input.FAILED, 0.0)
    assert subject.pause_s == BACK_OFF_MAX_S


@pytest.mark.parametrize(("ready_s", "pause_s"), [(STABLE_S, 1.0), (STABLE_S - 0.1, 4.0)])
def test_a_stable_minute_makes_the_slate_clean(ready_s, pause_s):
    """What died after less than that has failed once more."""
    subject = Supervision(60.0)
    for _ in range(2):
        subject.take(Input.BEGAN, 0.0)
        subject.take(Input.FAILED, 0.0)
    subject.take(Input.BEGAN, 0.0)
    subject.take(Input.BECAME_READY, 10.0)
    subject.take(Input.FAILED, 10.0 + ready_s)
    assert subject.pause_s == pause_s


def test_progress_does_not_extend_the_start():
    """Else a program that says something every second would never be given up."""
    subject = started(start_timeout_s=60.0)
    subject.take(Input.PROGRESSED, 59.0, detail="still loading")
    assert (subject.wake_at_s, subject.detail) == (60.0, "still loading")


def test_signing_in_takes_as_long_as_a_person_needs():
    """The limit stands still, and begins anew afterwards."""
    subject = started(start_timeout_s=60.0)
    subject.take(Input.ASKED_TO_SIGN_IN, 5.0, login_url="https://login.invalid/")
    assert (subject.state, subject.wake_at_s, subject.login_url) == (
        ServerState.SIGNING_IN,
        None,
        "https://login.invalid/",
    )
    subject.take(Input.PROGRESSED, 900.0)
    assert (subject.state, subject.wake_at_s, subject.login_url) == (ServerState.STARTING, 960.0, None)


def test_an_impossible_input_names_both():
    """Our own mistake, told so that it can be found."""
    with pytest.raises(ImpossibleInput, match="that is stopped cannot have became_ready"):
        Supervision(60.0).take(Input.BECAME_READY, 0.0)


def test_every_state_knows_the_request_to_stop():
    """It can be stopped whenever it is."""
    assert all((state, Input.ASKED_TO_STOP) in TRANSITIONS for state in ServerState)


@given(st.lists(st.tuples(st.sampled_from(Input), st.floats(0, 1000)), max_size=60))
def test_whatever_happens_the_promises_hold(happened):
    """Models only when ready, a login only while signing in, an alarm only where something is awaited."""
    subject = Supervision(60.0)
    now = 0.0
    for each, later in happened:
        now += later
        if (subject.state, each) not in TRANSITIONS:
            with pytest.raises(ImpossibleInput):
                subject.take(each, now)
            continue
        subject.take(each, now, detail="d", login_url="u", models=MODELS)
        assert bool(subject.models) == (subject.state is ServerState.READY)
        assert (subject.login_url is not None) == (subject.state is ServerState.SIGNING_IN)
        awaited = subject.state in (ServerState.STARTING, ServerState.BACKING_OFF)
        assert (subject.wake_at_s is not None) == awaited
        if subject.state is ServerState.BACKING_OFF:
            assert 1.0 <= subject.pause_s <= BACK_OFF_MAX_S
