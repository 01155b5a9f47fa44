"""What the HTTP API is told at its start."""

from pathlib import Path

import pytest

from services.frontproxy.config import BODY_BYTES_LIMIT, FrontproxyConfig
from services.runtime.settings import ConfigInvalid, FrontproxySettings, Settings
from services.runtime.state import StateDirectory

STATE = StateDirectory(home=Path("/nowhere"))


def test_the_defaults_serve():
    """Without a configuration file everything has a value."""
    config = FrontproxyConfig.from_settings(Settings(), STATE)
    assert config.port == 8741
    assert config.ledger == Path("/nowhere/ledger.sqlite3")


def test_a_body_that_the_bus_cannot_carry_is_a_mistake_in_the_configuration():
    """Better at the start than with the first long conversation."""
    settings = Settings(frontproxy=FrontproxySettings(body_bytes_max=BODY_BYTES_LIMIT + 1))
    with pytest.raises(ConfigInvalid, match=f"frontproxy.body_bytes_max is {BODY_BYTES_LIMIT + 1}; at most"):
        FrontproxyConfig.from_settings(settings, STATE)
