"""What an observer of HTTP/1.1 needs of a head of HTTP/2."""

import pytest

from services.wire.http2_parts import Head, HeadKind, Http2Invalid, code_name, request_head_of, response_head_of


def head(*fields: tuple[bytes, bytes], kind: HeadKind = HeadKind.RESPONSE) -> Head:
    return Head(stream_id=1, kind=kind, fields=fields, ended=False)


def test_a_request_is_its_method_its_path_and_what_says_how_to_read_it() -> None:
    """Other fields are nobody's."""
    fields = [(b":method", b"POST"), (b":path", b"/v1?a=%20"), (b"content-type", b"application/json"), (b"x", b"y")]
    request = request_head_of(head(*fields, kind=HeadKind.REQUEST))
    assert (request.method, request.target) == ("POST", "/v1?a=%20")
    assert request.field(b"content-type") == "application/json"
    assert request.field(b"content-encoding") == request.field(b"x") == ""


def test_repeated_fields_are_a_list() -> None:
    """As in HTTP/1.1."""
    response = response_head_of(
        head((b":status", b"201"), (b"content-encoding", b"gzip"), (b"content-encoding", b"br"))
    )
    assert (response.status, response.field(b"content-encoding")) == (201, "gzip, br")


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"2x0", b"-20"])
def test_a_status_is_three_digits(status: bytes) -> None:
    """What is none ends the connection that it came on."""
    with pytest.raises(Http2Invalid, match="is no status"):
        response_head_of(head((b":status", status)))


def test_codes_have_names() -> None:
    """Those that RFC 9113 knows."""
    assert [code_name(code) for code in (0, 7, 13, 14)] == [
        "NO_ERROR",
        "REFUSED_STREAM",
        "HTTP_1_1_REQUIRED",
        "code 14",
    ]
