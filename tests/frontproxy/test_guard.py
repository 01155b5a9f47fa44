"""Who may ask."""

import pytest

from services.frontproxy.guard import check, hosts_allowed
from services.frontproxy.refusal import Refused


@pytest.mark.parametrize("host", ["localhost:8741", "127.0.0.1:8741", "[::1]:8741", "LOCALHOST:8741"])
def test_this_server_is_known_by_its_loopback_names(host: str):
    """Each loopback name with our port is ours."""
    check([host], [], 8741)
    check([host], [f"http://{host}"], 8741)


@pytest.mark.parametrize(
    "host", ["evil.example:8741", "localhost", "localhost:80", "127.0.0.1.evil.example:8741", "", "localhost:8741."]
)
def test_a_rebound_name_is_refused(host: str):
    """A web page whose name was pointed at 127.0.0.1 still says its own name."""
    with pytest.raises(Refused, match="answers to localhost:8741") as caught:
        check([host], [], 8741)
    assert caught.value.status == 421


@pytest.mark.parametrize("hosts", [[], ["localhost:8741", "localhost:8741"]], ids=["none", "two"])
def test_a_request_has_one_host(hosts: list[str]):
    """RFC 9112 section 3.2: none or two of them is 400."""
    with pytest.raises(Refused, match="one host header") as caught:
        check(hosts, [], 8741)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "https://localhost:8741", "http://localhost"]
)
def test_foreign_pages_are_refused(origin: str):
    """A browser says which page sends; only our own may."""
    with pytest.raises(Refused, match="other sites") as caught:
        check(["localhost:8741"], [origin], 8741)
    assert caught.value.status == 403


def test_on_the_port_of_http_the_port_need_not_be_said():
    """`Host: localhost` means port 80."""
    assert "localhost" in hosts_allowed(80)
    check(["localhost"], ["http://localhost"], 80)


def test_a_long_value_is_cut_in_the_message():
    """An attacker's header does not fill our answer."""
    with pytest.raises(Refused) as caught:
        check(["x" * 5000], [], 8741)
    assert len(caught.value.message) < 400
