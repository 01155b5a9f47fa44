"""The simulated language server's own parts; its life with a provider is in profiles/test_simulated."""

import io
import json
import socket
import ssl
from datetime import UTC, datetime

import pytest

from services.lsrunner.simulated_server import HOST, Provider, Turn, error_message, events
from services.mitm.authority import make_leaf, make_leaf_key
from tests.support.authority import foreign_authority, load_pair, shake_hands

ORDER = {
    "turn": "T",
    "conversation": "C",
    "model": "simulated-pro",
    "messages": [
        {"role": "system", "text": "be brief"},
        {"role": "user", "text": "hello"},
        {"role": "assistant", "text": "hi"},
        {"role": "user", "text": "more"},
    ],
}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_do_not_depend_on_how_the_stream_was_cut(size):
    """CR LF CR LF may fall anywhere."""
    stream = io.BytesIO(b'data: {"a":1}\r\n\r\ndata: {"b":"\\r\\n"}\r\n\r\ndata: {"never": "finished"')
    assert list(events(iter(lambda: stream.read(size), b""))) == [{"a": 1}, {"b": "\r\n"}]


def test_a_call_has_the_form_of_the_real_one():
    """The conversation's id is on the wire; the model's messages have the role `model`."""
    body = Turn(ORDER).request("simulated-pro", Turn(ORDER).messages, 0)
    assert body["requestId"].split("/")[:2] == ["agent", "C"]
    assert [content["role"] for content in body["request"]["contents"]] == ["user", "model", "user"]
    assert body["request"]["systemInstruction"]["parts"] == [{"text": "be brief"}]
    assert body["model"] == "simulated-pro"


def test_errors_are_told_in_the_providers_words():
    """Or as unreadable."""
    assert error_message(json.dumps({"error": {"message": "no quota"}}).encode()) == "no quota"
    assert error_message(b"<html>") == "the simulated provider gave an error that cannot be read"


def test_without_a_proxy_it_dials_this_machine():
    """Where only the redirect answers; a missing one is a refusal, not a leak."""
    connection = Provider({}).connect()
    assert type(connection).__name__ == "RedirectedConnection"
    proxied = Provider({"HTTPS_PROXY": "http://label:@127.0.0.1:8742"}).connect()
    assert (proxied.host, proxied.port) == ("127.0.0.1", 8742)


def test_it_is_as_strict_as_the_real_ones(tmp_path):
    """An authority of the user's own needs no key usage and no identifier, on any Python; others are refused."""
    now = datetime.now(UTC)
    own, stranger = (foreign_authority(now, key_identifier=False) for _ in range(2))
    trust_file = tmp_path / "ca.pem"
    trust_file.write_bytes(own.certificate_pem())
    context = Provider({"SSL_CERT_FILE": str(trust_file)}).connect()._trust
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(server_side, make_leaf(own, make_leaf_key(), HOST, now))
    shake_hands(context, server_side, HOST)
    load_pair(server_side, make_leaf(stranger, make_leaf_key(), HOST, now))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, server_side, HOST)


def test_an_idle_connection_that_was_closed_is_not_used_again():
    """The proxy has restarted meanwhile: the prompt that comes next shall not pay for it."""
    provider = Provider({"HTTPS_PROXY": "http://label:@127.0.0.1:8742"})
    kept, closed = provider.connect(), provider.connect()
    kept.sock, other_end = socket.socketpair()
    closed.sock, gone = socket.socketpair()
    with other_end:
        gone.close()
        provider.keep(kept)
        provider.keep(closed)
        assert provider.connect() is kept
        assert closed.sock is None
        kept.close()


def test_a_turn_that_has_not_called_yet_can_be_cancelled():
    """There is nothing to break off."""
    turn = Turn(ORDER)
    turn.cancel()
    assert turn.cancelled
