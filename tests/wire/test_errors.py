"""The errors of the wire are one family, so that a caller can end one exchange on all of them."""

import pytest

from services.wire.content_encoding import CodingInvalid, CodingUnknown, DecodedTooLarge
from services.wire.errors import WireError
from services.wire.json_stream import JsonElementTooLarge, JsonMalformed
from services.wire.sse import EventTooLarge


@pytest.mark.parametrize(
    "child", [CodingInvalid, CodingUnknown, DecodedTooLarge, JsonElementTooLarge, JsonMalformed, EventTooLarge]
)
def test_what_a_reader_raises_is_a_wire_error(child: type[Exception]) -> None:
    """Whatever the peer did wrong, one `except` is enough."""
    assert issubclass(child, WireError)
