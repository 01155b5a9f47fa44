"""The state of everything."""

import dataclasses
import json

import orjson
import pytest

from services.events.lifecycle import LanguageServerState, Missing, OfferedModel, ProcessBeat, ServerState
from services.frontproxy.health import FORGET_S, FRESH_S, PROCESSES_MAX, HealthView

READY = LanguageServerState(
    at="2026-11-23T12:00:00Z",
    state=ServerState.READY,
    profile="simulated",
    label="simulated",
    user="me",
    uid=1000,
    models=(OfferedModel(id="m", name="Model"),),
)


def beat(name: str, *missing: Missing) -> ProcessBeat:
    return ProcessBeat(
        process=name,
        pid=7,
        version="0.1.0",
        at="2026-11-23T12:00:01Z",
        started_at="2026-11-23T12:00:00Z",
        missing=missing,
        facts={"connections": 3},
    )


def healthy() -> HealthView:
    view = HealthView()
    for name in ("mitm-0", "accountant", "lsrunner", "frontproxy"):
        view.hear_beat(beat(name), 100.0)
    view.hear_state(READY, 100.0)
    return view


def whats(view: HealthView, now_s: float = 100.0) -> list[str]:
    return [each.what for each in view.report(now_s).missing]


def test_all_is_well():
    """Every process heard, the language server ready: ok."""
    report = healthy().report(100.0 + FRESH_S)
    assert report.is_serving
    written = json.loads(orjson.dumps(report.as_object()))
    assert written["schema"] == "wiremeter.health-report/1"
    assert written["status"] == "ok"
    assert written["missing"] == []
    assert [each["name"] for each in written["processes"]] == ["accountant", "frontproxy", "lsrunner", "mitm-0"]
    assert written["processes"][0] == {
        "name": "accountant",
        "pid": 7,
        "version": "0.1.0",
        "since": "2026-11-23T12:00:00Z",
        "last_seen": "2026-11-23T12:00:01Z",
        "is_alive": True,
        "missing": [],
        "facts": {"connections": 3},
    }
    assert written["language_server"]["state"] == "ready"
    assert written["language_server_age_s"] == 3.0


def test_before_anything_is_heard_everything_is_missing():
    """A fresh start says what it waits for."""
    report = HealthView().report(100.0)
    assert not report.is_serving
    assert [each.detail for each in report.missing] == [
        "mitm has not been heard",
        "accountant has not been heard",
        "lsrunner has not been heard",
        "nothing has been heard of the language server",
    ]


@pytest.mark.parametrize(("name", "what"), [("mitm-0", "mitm"), ("accountant", "accountant"), ("lsrunner", "lsrunner")])
def test_a_process_that_falls_silent_is_missing(name: str, what: str):
    """Three seconds without a heartbeat."""
    view = healthy()
    for other in {"mitm-0", "accountant", "lsrunner", "frontproxy"} - {name}:
        view.hear_beat(beat(other), 110.0)
    view.hear_state(READY, 110.0)
    report = view.report(110.0)
    assert not report.is_serving
    assert [each.what for each in report.missing if each.what == what]
    assert report.missing[0].detail == f"{what} has not been heard for 10 s"


def test_one_mitm_of_several_is_enough_to_serve_and_the_other_is_named():
    """With two workers the loss of one degrades and does not stop."""
    view = healthy()
    view.hear_beat(beat("mitm-1"), 90.0)
    report = view.report(100.0)
    assert report.is_serving
    assert [each.what for each in report.missing] == ["mitm-1"]


def test_what_a_process_misses_is_told_with_its_name():
    """`missing` gathers everything in one place."""
    view = healthy()
    view.hear_beat(beat("mitm-0", Missing(what="journal", detail="disk is full, not recording")), 100.0)
    report = view.report(100.0)
    assert report.is_serving
    assert report.missing == (Missing(what="journal", detail="mitm-0: disk is full, not recording"),)


def test_the_language_servers_state_is_told_once():
    """lsrunner's heartbeat says it too."""
    view = healthy()
    view.hear_beat(beat("lsrunner", Missing(what="language_server", detail="backing off: no such program")), 100.0)
    view.hear_state(dataclasses.replace(READY, state=ServerState.BACKING_OFF, detail="no such program"), 100.0)
    (told,) = view.report(100.0).missing
    assert told.detail == "the language server is backing off: no such program"


def test_a_language_server_that_is_not_ready_says_why_and_where_to_sign_in():
    """The user sees the login's address in the health report."""
    view = healthy()
    state = LanguageServerState(
        at="",
        state=ServerState.SIGNING_IN,
        profile="antigravity",
        label="antigravity",
        user="me",
        uid=1,
        login_url="https://accounts.example/login",
        detail="no account yet",
    )
    view.hear_state(state, 100.0)
    report = view.report(100.0)
    assert not report.is_serving
    assert report.missing[0].detail == (
        "the language server is signing in: no account yet; sign in at https://accounts.example/login"
    )


def test_a_state_that_is_old_is_shown_with_its_age():
    """The last word is kept, and not taken for the present."""
    view = healthy()
    assert "language_server" in whats(view, 110.0)
    assert view.report(110.0).language_server == READY


def test_memory_is_bounded():
    """Names beyond the limit push out those not heard for longest, and the silent are forgotten."""
    view = HealthView()
    for number in range(PROCESSES_MAX + 10):
        view.hear_beat(beat(f"mitm-{number}"), 100.0 + number)
    assert len(view.report(200.0).processes) == PROCESSES_MAX
    assert view.report(200.0 + FORGET_S * 2).processes == ()
