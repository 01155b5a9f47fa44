"""What a client is told when a turn fails."""

import pytest

from services.events.turn import FailureKind
from services.frontproxy.refusal import refusal_of, unknown_model
from services.frontproxy.turns import Failure


@pytest.mark.parametrize(
    ("kind", "provider_status", "status", "code"),
    [
        (FailureKind.UNKNOWN_MODEL, None, 404, "model_not_found"),
        (FailureKind.INVALID, None, 400, "unsupported"),
        (FailureKind.NOT_READY, None, 503, "not_ready"),
        (FailureKind.BUSY, None, 429, "busy"),
        (FailureKind.UPSTREAM, 429, 429, "upstream_error"),
        (FailureKind.UPSTREAM, 403, 403, "upstream_error"),
        (FailureKind.UPSTREAM, 503, 503, "upstream_error"),
        (FailureKind.UPSTREAM, 200, 502, "upstream_error"),
        (FailureKind.UPSTREAM, None, 502, "upstream_error"),
        (FailureKind.TIMEOUT, None, 504, "timeout"),
        (FailureKind.INTERNAL, None, 502, "language_server_error"),
    ],
)
def test_each_kind_of_failure_has_its_status(kind: FailureKind, provider_status: int | None, status: int, code: str):
    """A provider's own refusal passes through; the rest is told by HTTP's words."""
    refused = refusal_of(Failure(kind=kind, message="why", status=provider_status))
    assert (refused.status, refused.code, refused.message) == (status, code, "why")


@pytest.mark.parametrize("kind", [FailureKind.UPSTREAM, FailureKind.TIMEOUT, FailureKind.INTERNAL])
def test_a_turn_that_may_have_been_spent_is_not_repeated_by_the_sdk(kind: FailureKind):
    """Only the user decides to pay twice."""
    assert refusal_of(Failure(kind=kind, message="")).headers == {"x-should-retry": "false"}


@pytest.mark.parametrize("kind", [FailureKind.BUSY, FailureKind.NOT_READY])
def test_what_passes_is_to_be_tried_again_later(kind: FailureKind):
    """Nothing was spent."""
    assert refusal_of(Failure(kind=kind, message="")).headers == {"retry-after": "2"}


def test_whoever_must_sign_in_is_told_where():
    """Once, not twice."""
    failure = Failure(kind=FailureKind.NOT_READY, message="not signed in")
    assert refusal_of(failure, login_url="https://x.example").message == "not signed in; sign in at https://x.example"
    failure = Failure(kind=FailureKind.NOT_READY, message="go to https://x.example")
    assert refusal_of(failure, login_url="https://x.example").message == "go to https://x.example"


def test_an_unknown_model_is_answered_with_what_is_offered():
    """A name of any length leaves the message readable."""
    failure = Failure(kind=FailureKind.UNKNOWN_MODEL, message="no such model")
    assert refusal_of(failure, offered=("a", "b")).message == "no such model; offered: a, b"
    assert unknown_model("x", ()).message == "the model 'x' is not offered; offered: none"
    assert len(unknown_model("x" * 10_000, ()).message) < 300
