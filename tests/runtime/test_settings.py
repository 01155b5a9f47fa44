"""What can be set, and every mistake at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.settings import (
    ConfigInvalid,
    Settings,
    loopback_tcp,
    read_settings,
    settings_from,
    split_address,
)


def read(text: str, tmp_path: Path, **environ: str) -> Settings:
    file = tmp_path / "wiremeter.toml"
    file.write_text(text)
    return read_settings({"WIREMETER_CONFIG": str(file), **environ})


def problems_of(text: str, tmp_path: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as refused:
        read(text, tmp_path, **environ)
    return refused.value.problems


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    """An empty file is the same."""
    assert read("", tmp_path).mitm == Settings().mitm
    assert settings_from({}, {}, []) == Settings()


def test_the_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """Lists and tables in the environment are JSON; lists of words may be separated by commas."""
    text = """
    [mitm]
    port = 9742
    intercept_hosts = ["a.example"]
    idle_timeout_s = 5
    [mitm.upstream_map]
    "a.example" = "127.0.0.1:1"
    [lsrunner]
    terms_read = true
    """
    found = read(
        text,
        tmp_path,
        WIREMETER_MITM_INTERCEPT_HOSTS="b.example, c.example",
        WIREMETER_MITM_UPSTREAM_MAP='{"b.example": "[::1]:2"}',
        WIREMETER_LSRUNNER_COMMAND='["agent", "--acp"]',
    )
    assert found.mitm.port == 9742
    assert found.mitm.idle_timeout_s == 5.0
    assert found.mitm.intercept_hosts == ("b.example", "c.example")
    assert found.mitm.upstream_map == {"b.example": "[::1]:2"}
    assert found.lsrunner.command == ("agent", "--acp")
    assert found.lsrunner.terms_read is True
    assert found.file == tmp_path / "wiremeter.toml"


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """Each with the key, the value and what is allowed."""
    text = """
    [mitm]
    prot = 1
    port = "8742"
    head_bytes_max = 10
    [lsrunner]
    profile = "sideways"
    [nowhere]
    """
    environ = {"WIREMETER_FRONTPROXY_PORT": "0", "WIREMETER_NO_SUCH": "1", "WIREMETER_SIMULATOR_PROT": "1"}
    problems = problems_of(text, tmp_path, **environ)
    for words in (
        "mitm.prot is no setting; allowed: port,",
        "mitm.port is '8742'; a whole number is allowed",
        "mitm.head_bytes_max is 10; 1024 to 16777216 is allowed",
        "lsrunner.profile is 'sideways'; allowed: auto,",
        "[nowhere] is no section; allowed: mitm,",
        "WIREMETER_FRONTPROXY_PORT is 0; 1 to 65535 is allowed",
        "WIREMETER_NO_SUCH is no setting; allowed: WIREMETER_MITM_…, WIREMETER_ACCOUNTANT_…",
        "WIREMETER_SIMULATOR_PROT is no setting; allowed: WIREMETER_SIMULATOR_PORT",
    ):
        assert any(words in problem for problem in problems), (words, problems)
    assert len(problems) == 8


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MITM_PORT": "8741"}, "frontproxy.port is 8741; mitm.port has that port already"),
        ({"LSRUNNER_PROFILE": "acp"}, "it needs lsrunner.command"),
        ({"MITM_HTTP2": "always"}, "mitm.http2 is 'always'; allowed: when_needed, prefer"),
        ({"ACCOUNTANT_USAGE_ENDPOINT": "tcp://0.0.0.0:8743"}, "tcp:// with a loopback address"),
        ({"ACCOUNTANT_USAGE_ENDPOINT": "tcp://192.0.2.1:8743"}, "tcp:// with a loopback address"),
        ({"MITM_UPSTREAM_MAP": '{"a": "b"}'}, "mitm.upstream_map.a is 'b'; address:port is allowed"),
        ({"LSRUNNER_TERMS_READ": "yes"}, "true or false is allowed"),
        ({"MITM_POOL_SIZE_MAX": "true"}, "a whole number is allowed"),
        ({"MITM_IDLE_TIMEOUT_S": "0"}, "a number above 0 is allowed"),
        ({"MITM_IDLE_TIMEOUT_S": "Infinity"}, "a number above 0 is allowed"),
        ({"MITM_INTERCEPT_HOSTS": "[1]"}, "a list of words is allowed"),
    ],
)
def test_what_cannot_be_is_refused(environ: dict[str, str], words: str, tmp_path: Path) -> None:
    """Contradictions and wrong values, wherever they come from."""
    (problem,) = problems_of("", tmp_path, **{f"WIREMETER_{name}": value for name, value in environ.items()})
    assert words in problem


@pytest.mark.parametrize("text", ["[mitm", "mitm = 1", "\xff"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    """With its name."""
    file = tmp_path / "wiremeter.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigInvalid, match="wiremeter.toml"):
        read_settings({"WIREMETER_CONFIG": str(file)})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Somebody wanted it to be read."""
    file = tmp_path / "nowhere.toml"
    with pytest.raises(ConfigInvalid, match=f"^{file} cannot be read: No such file or directory$"):
        read_settings({"WIREMETER_CONFIG": str(file)})


@given(st.dictionaries(st.sampled_from([f"WIREMETER_MITM_{n}" for n in ("PORT", "INTERCEPT_HOSTS")]), st.text()))
def test_no_value_is_a_traceback(environ: dict[str, str]) -> None:
    """Whatever stands in the environment is a setting or a problem."""
    problems: list[str] = []
    settings_from({}, environ, problems)
    assert all(isinstance(problem, str) for problem in problems)


@given(st.text())
def test_addresses_are_split_or_refused(text: str) -> None:
    """A port is always one."""
    found = split_address(text)
    assert found is None or 0 < found[1] < 65536


@pytest.mark.parametrize("home", ["state", "./state", "~/state"])
def test_a_home_that_is_relative_is_refused(home: str, tmp_path: Path) -> None:
    """Every command would find another one where it is typed; a shell expands `~`, we do not."""
    assert problems_of("", tmp_path, WIREMETER_HOME=home) == [
        f"WIREMETER_HOME is {home!r}; an absolute path is allowed"
    ]
    assert read("", tmp_path, WIREMETER_HOME="").mitm == read("", tmp_path, WIREMETER_HOME="/state").mitm


def test_addresses() -> None:
    """IPv6 stands in brackets; only loopback is loopback."""
    assert split_address("[::1]:443") == ("::1", 443)
    assert split_address("localhost:0") is None
    assert loopback_tcp("tcp://[::1]:8743") == ("::1", 8743)
    assert loopback_tcp("tcp://127.0.0.1:8743") == ("127.0.0.1", 8743)
    assert loopback_tcp("tcp://*:8743") is None
    assert loopback_tcp("ipc:///x") is None
