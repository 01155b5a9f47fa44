"""The responses of our own, in upstream's place: they say so, in the error shape that provider SDKs print."""

from http import HTTPStatus

import orjson


def refusal(status: int, error_type: str, reason: str, *, with_body: bool = True) -> bytes:
    """Write a response of HTTP/1.1, which ends its connection."""
    body = refusal_body(status, error_type, reason)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        f"cache-control: no-store\r\nx-wiremeter-error: {error_type}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (body if with_body else b"")


def refusal_body(status: int, error_type: str, reason: str) -> bytes:
    """Write the body alone."""
    phrase = HTTPStatus(status).phrase
    error = {"code": status, "type": error_type, "status": phrase, "message": f"wiremeter: {reason}"}
    return orjson.dumps({"error": error})
