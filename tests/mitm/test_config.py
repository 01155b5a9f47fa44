"""What mitm is built with."""

from pathlib import Path

import pytest

from services.mitm.config import SIMULATED_HOST, HostList, MitmConfig
from services.runtime.settings import ConfigInvalid, MitmSettings, Settings, SimulatorSettings
from services.runtime.state import StateDirectory


def config_with(**settings: object) -> MitmConfig:
    return MitmConfig.from_settings(
        Settings(mitm=MitmSettings(**settings), simulator=SimulatorSettings(port=9)),  # type: ignore[arg-type]
        StateDirectory(home=Path("/nowhere")),
    )


def test_without_a_list_the_known_providers_are_read() -> None:
    """And the simulated one, which is where the configuration says."""
    config = config_with()
    hosts = HostList(config.intercept_hosts)
    assert "api.anthropic.com" in hosts and "daily-cloudcode-pa.googleapis.com" in hosts and SIMULATED_HOST in hosts
    assert "example.com" not in hosts and "www.googleapis.com" not in hosts
    assert config.upstream_map[SIMULATED_HOST] == ("127.0.0.1", 9)


def test_a_list_replaces_the_built_in_one() -> None:
    """Names are compared in lower case; `*` stands for a part of one label."""
    hosts = HostList(config_with(intercept_hosts=("API.Example.com", "*.x.test")).intercept_hosts)
    assert "api.example.com" in hosts and "a.x.test" in hosts
    assert "a.b.x.test" not in hosts and "x.test" not in hosts and "api.anthropic.com" not in hosts
    assert "api.example.com" in hosts  # the second time from memory


def test_every_pattern_that_is_none_is_named_at_once() -> None:
    """A star in the last two labels could vouch for a whole top level."""
    with pytest.raises(ConfigInvalid) as caught:
        config_with(intercept_hosts=("*.com", "*", "localhost", "a b.example.com", "ok.example.com", "*.co.uk"))
    assert [problem.split("'")[1] for problem in caught.value.problems] == [
        "*.com",
        "*",
        "localhost",
        "a b.example.com",
    ]


def test_the_map_is_split_into_addresses() -> None:
    """The user's word goes before the built-in one."""
    config = config_with(upstream_map={"Api.Example.com": "[::1]:5", SIMULATED_HOST: "127.0.0.1:6"})
    assert config.upstream_map == {"api.example.com": ("::1", 5), SIMULATED_HOST: ("127.0.0.1", 6)}
