"""What we answer in upstream's place says so, and what is wrong."""

import json

import pytest

from services.mitm.refusal import refusal, refusal_body
from services.wire.http1 import read_response_head


@pytest.mark.parametrize("status", [400, 408, 431, 502, 504])
def test_a_refusal_is_a_response_that_ends_its_connection(status: int) -> None:
    """With our mark on it, and a reason that the SDKs print."""
    head, _, body = refusal(status, "upstream_dns", "no such host").partition(b"\r\n\r\n")
    response = read_response_head(head + b"\r\n\r\n", request_method="GET")
    assert (response.status, response.keeps_alive, response.length) == (status, False, len(body))
    assert b"x-wiremeter-error: upstream_dns" in head
    assert body == refusal_body(status, "upstream_dns", "no such host")
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == (status, "upstream_dns")
    assert error["message"] == "wiremeter: no such host"


def test_a_refusal_of_head_has_no_body() -> None:
    """Its length says what another method would have got."""
    whole = refusal(502, "upstream_dns", "no such host")
    assert refusal(502, "upstream_dns", "no such host", with_body=False) == whole.partition(b"{")[0]
