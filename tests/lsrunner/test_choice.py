"""Which profile is run."""

import pytest

from services.lsrunner.choice import builder_of, choose
from services.runtime.settings import LsrunnerSettings


@pytest.mark.parametrize("name", ["antigravity", "acp", "command", "simulated"])
def test_a_named_profile_is_the_one(name):
    """Whatever is installed; and it can be built."""
    settings = LsrunnerSettings(profile=name, command=("gemini", "--acp"))
    assert choose(settings, {}) == name
    assert builder_of(name).NAME == name


def test_auto_takes_the_agent_that_is_set():
    """A command under `auto` is an Agent Client Protocol agent."""
    assert choose(LsrunnerSettings(profile="auto", command=("gemini", "--acp")), {}) == "acp"


def test_auto_takes_antigravity_where_it_is_installed(monkeypatch):
    """Before the simulation."""
    where = "services.lsrunner.profiles.antigravity.installed_binary"
    monkeypatch.setattr(where, lambda environ: "/opt/Antigravity/resources/bin/language_server")
    assert choose(LsrunnerSettings(profile="auto"), {}) == "antigravity"


def test_auto_simulates_where_there_is_nothing_else(monkeypatch):
    """So that a machine without account and network shows the whole chain."""
    monkeypatch.setattr("services.lsrunner.profiles.antigravity.installed_binary", lambda environ: None)
    assert choose(LsrunnerSettings(profile="auto"), {}) == "simulated"
