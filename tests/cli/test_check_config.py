"""`wiremeter check-config`."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli.app import command


def check(environ: dict[str, str]) -> int:
    return command(["check-config"], environ, datetime.now(UTC))


def test_every_mistake_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 78; each line has the key, the value and what is allowed."""
    file = tmp_path / "wiremeter.toml"
    file.write_text('[mitm]\nport = 70000\nfarbe = 1\n[lsrunner]\nprofile = "sideways"\n')
    assert check({"WIREMETER_CONFIG": str(file)}) == 78
    problems = capsys.readouterr().err.splitlines()
    assert len(problems) == 3
    assert any("mitm.port is 70000; 1 to 65535 is allowed" in each for each in problems)
    assert any("mitm.farbe is no setting" in each for each in problems)
    assert any("lsrunner.profile is 'sideways'" in each for each in problems)


def test_no_mistake_is_said_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0, with the file that was read."""
    file = tmp_path / "wiremeter.toml"
    file.write_text("")
    assert check({"WIREMETER_CONFIG": str(file)}) == 0
    assert str(file) in capsys.readouterr().out


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """When it was asked for by name."""
    assert check({"WIREMETER_CONFIG": str(tmp_path / "none.toml")}) == 78
