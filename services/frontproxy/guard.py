"""
Who may ask: requests that name this server, and that no foreign web page makes a browser send.

A page on any site can make the user's browser connect to a port on localhost. Checking `Host` ends DNS rebinding (the
page's own name resolves to 127.0.0.1 later), checking `Origin` ends plain cross-site requests (RFC 6454 section 7).
"""

from collections.abc import Sequence
from http import HTTPStatus

from services.frontproxy.refusal import Refused, invalid

_NAMES = ("localhost", "127.0.0.1", "[::1]")
_VALUE_SHOWN_MAX = 200


def hosts_allowed(port: int) -> tuple[str, ...]:
    """List what `Host` may say; without a port only where that is HTTP's own."""
    named = tuple(f"{name}:{port}" for name in _NAMES)
    return named + _NAMES if port == 80 else named


def check(hosts: Sequence[str], origins: Sequence[str], port: int) -> None:
    """
    Check the `Host` and `Origin` headers of one request.

    Raises:
        Refused: 400 without exactly one Host, 421 for a foreign one, 403 for a foreign Origin.
    """
    allowed = hosts_allowed(port)
    if len(hosts) != 1:
        raise invalid(f"a request has one host header, this one has {len(hosts)}", code="host_invalid")
    if hosts[0].lower() not in allowed:
        shown = hosts[0][:_VALUE_SHOWN_MAX]
        raise Refused(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"host is {shown!r}; this server answers to {', '.join(allowed)}",
            code="host_foreign",
        )
    for origin in origins:
        if origin.lower() not in {f"http://{name}" for name in allowed}:
            shown = origin[:_VALUE_SHOWN_MAX]
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"origin is {shown!r}; web pages of other sites are refused",
                code="origin_foreign",
            )
