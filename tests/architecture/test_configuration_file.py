"""wiremeter.toml: everything that can be set, with its default."""

import dataclasses
import re
import tomllib

from services.runtime.settings import Settings, read_settings, settings_from
from tests.support.source import PROJECT

TEXT = (PROJECT / "wiremeter.toml").read_text()
# A setting, commented out.
SETTING = re.compile(r"^# (?=\w+ = )", re.MULTILINE)


def test_as_it_stands_it_changes_nothing() -> None:
    """All is commented out."""
    found = read_settings({"WIREMETER_CONFIG": str(PROJECT / "wiremeter.toml")})
    assert dataclasses.replace(found, file=None) == Settings()


def test_the_values_shown_are_the_defaults() -> None:
    """Taking away every "# " in front of a setting changes nothing either."""
    problems: list[str] = []
    assert settings_from(tomllib.loads(SETTING.sub("", TEXT)), {}, problems) == Settings()
    assert problems == []


def test_every_setting_is_shown_and_explained() -> None:
    """With a sentence above it."""
    tables = tomllib.loads(SETTING.sub("", TEXT))
    for section in dataclasses.fields(Settings):
        if section.name != "file":
            wanted = {field.name for field in dataclasses.fields(getattr(Settings(), section.name))}
            assert set(tables[section.name]) == wanted
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if SETTING.match(line):
            assert re.match(r"# .*\w.*[.:;,\w]$", lines[number - 1]), line
