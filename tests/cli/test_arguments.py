"""The command line of `wiremeter`."""

from datetime import UTC, datetime

import pytest

from services.cli.arguments import parsed, parser

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_times_are_absolute_or_back_from_now() -> None:
    """As the HTTP API takes them."""
    found = parser(NOW).parse_args(["usage", "--since", "90m", "--until", "2026-11-24"])
    assert found.since == datetime(2026, 11, 23, 10, 30, tzinfo=UTC)
    assert found.until == datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["usage", "--since", "yesterday"], "'yesterday' is no time; allowed is"),
        (["usage", "--since", "999999w"], "is no time"),
        (["tail", "--count", "0"], "'0'; a whole number above 0 is allowed"),
        (["sideways"], "invalid choice: 'sideways'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_arguments_are_named(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and the value at fault."""
    with pytest.raises(SystemExit) as ended:
        parser(NOW).parse_args(line)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("line", [["--help"], ["usage", "--help"], ["tail", "--help"], ["up", "--help"]])
def test_help_documents_the_exit_statuses(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Of every command."""
    with pytest.raises(SystemExit) as ended:
        parser(NOW).parse_args(line)
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "0 done, 1 failed, 2 wrong arguments, 3 not running, 78 a mistake in the configuration" in shown


@pytest.mark.parametrize(
    ("line", "program"),
    [
        (["run", "--", "curl", "-s", "x"], ["curl", "-s", "x"]),
        (["run", "curl", "-s", "x"], ["curl", "-s", "x"]),
        (["run", "--label", "a", "--", "claude", "--json", "--", "--as"], ["claude", "--json", "--", "--as"]),
        (["run", "git", "log", "--", "file"], ["git", "log", "--", "file"]),
        (["run", "--json", "curl", "--json"], ["curl", "--json"]),
        (["run", "--", "--odd-name"], ["--odd-name"]),
    ],
)
def test_the_program_keeps_its_own_options(line: list[str], program: list[str]) -> None:
    """Whatever they look like; ours stand before it."""
    assert parsed(line, NOW).program == program


def test_the_options_of_run() -> None:
    """All before the program."""
    found = parsed(["run", "--label", "my agent", "--as", "u", "--json", "--output", "f", "--", "x"], NOW)
    assert (found.label, found.user, found.json, found.output) == ("my agent", "u", True, "f")
    found = parsed(["run", "x"], NOW)
    assert (found.label, found.user, found.json, found.output) == (None, None, False, None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["run"], "run needs a program"),
        (["run", "--json", "--"], "run needs a program"),
        (["run", "--label", "a:b", "--", "x"], "printable letters without ':'"),
        (["run", "--label", "a\nb", "--", "x"], "printable letters without ':'"),
        (["run", "--label", "", "--", "x"], "1 to 64"),
        (["run", "--label", "x" * 65, "--", "x"], "1 to 64"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, before anything is looked at."""
    with pytest.raises(SystemExit) as error:
        parsed(line, NOW)
    assert error.value.code == 2
    assert words in capsys.readouterr().err
