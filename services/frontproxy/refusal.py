"""
What a client is told when it gets no answer: status, sentence, parameter and code, whatever the surface.

Each surface writes a `Refused` in its own error shape. Messages are lower case and name the value and what is allowed.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from services.events.turn import FailureKind
from services.frontproxy.turns import Failure

# Seconds after which trying again is worth while; a turn takes a few of them.
BUSY_RETRY_AFTER_S: Final = 2
# The official SDKs repeat a request after 429 and 5xx unless this says no. A turn that reached the provider may have
# been spent already: only the user decides to pay for it again.
_NO_RETRY: Final = {"x-should-retry": "false"}
_RETRY_LATER: Final = {"retry-after": str(BUSY_RETRY_AFTER_S)}


class Refused(Exception):
    """
    A request that is answered with an error.

    Attributes:
        status: HTTP status.
        message: For people.
        param: The member of the request that is at fault, `messages[2].content`.
        code: A stable word for programs.
        headers: More response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> Refused:
    """Make the refusal of a request that cannot be right, or asks for what a language server cannot do."""
    return Refused(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def unknown_model(model: str, offered: tuple[str, ...]) -> Refused:
    """Make the refusal of a model that the language server does not offer."""
    message = f"the model {model[:200]!r} is not offered; offered: {', '.join(offered) or 'none'}"
    return Refused(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")


def refusal_of(failure: Failure, *, offered: tuple[str, ...] = (), login_url: str | None = None) -> Refused:
    """
    Translate the failure of a turn.

    Args:
        failure: What lsrunner said, or what the turn decided itself.
        offered: The models to name beside an unknown one.
        login_url: Where the user can sign in, when that is what is missing.
    """
    message = failure.message
    match failure.kind:
        case FailureKind.UNKNOWN_MODEL:
            named = f"{message}; offered: {', '.join(offered)}" if offered else message
            return Refused(HTTPStatus.NOT_FOUND, named, param="model", code="model_not_found")
        case FailureKind.INVALID:
            return invalid(message, code="unsupported")
        case FailureKind.NOT_READY:
            if login_url and login_url not in message:
                message = f"{message}; sign in at {login_url}"
            return Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, code="not_ready", headers=_RETRY_LATER)
        case FailureKind.BUSY:
            return Refused(HTTPStatus.TOO_MANY_REQUESTS, message, code="busy", headers=_RETRY_LATER)
        case FailureKind.UPSTREAM:
            passed_on = failure.status if failure.status is not None and 400 <= failure.status <= 599 else None
            return Refused(passed_on or HTTPStatus.BAD_GATEWAY, message, code="upstream_error", headers=_NO_RETRY)
        case FailureKind.TIMEOUT:
            return Refused(HTTPStatus.GATEWAY_TIMEOUT, message, code="timeout", headers=_NO_RETRY)
        case FailureKind.INTERNAL:
            return Refused(HTTPStatus.BAD_GATEWAY, message, code="language_server_error", headers=_NO_RETRY)
