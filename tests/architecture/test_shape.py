"""The shape of services and modules: what a stranger can rely on when looking for something."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.source import PROJECT, imports_of, modules, package_of, tree_of

SERVICES = ("accountant", "frontproxy", "lsrunner", "mitm")
# The closed list of modules that touch the world: a file's name tells whether it can be tested without I/O.
SHELLS = set("app server backend upstream keystore store ingest process publisher subscriber journal logs run".split())
SHELLS |= {"__main__", "__init__"}
# Beyond the list, each with its reason.
MORE_SHELLS = {
    "cli": "every command is a conversation with the world; arguments, lines, readiness and tables are its cores",
    "bus/beat": "the heartbeat: a clock and a socket",
    "lsrunner/guard": "a program of its own: runs as the language server's user and watches its standard input",
    "lsrunner/scout": "a program of its own: runs as the language server's user and reports what it can reach",
    "lsrunner/simulated_server": "a program of its own: the simulated language server",
    "lsrunner/connect_rpc": "the client of a language server's own HTTP API",
    "lsrunner/browser": "the user's browser, for signing in",
    "lsrunner/dialogue": "talks to a language server while it lives",
    "lsrunner/installation": "looks for what is installed",
    "lsrunner/probe": "asks the machine where the language server can live",
    "lsrunner/profiles": "each speaks its language server's own protocol",
    "mitm/poller": "the loop of the data path",
    "mitm/passage": "the short way from socket to socket",
    "mitm/peer": "asks the kernel who connects",
    "mitm/stream": "the sockets of the data path",
    "mitm/tunnel": "the sockets of what is not opened",
    "runtime/state": "the state directory is made of files",
    "runtime/settings": "reads the configuration file",
}
CLI_CORES = {"arguments", "lines", "readiness", "summary", "tables"}
WORLD = set(
    "asyncio http.client http.server multiprocessing secrets select selectors signal socket sqlite3 ssl subprocess"
    " threading time urllib.request uvloop zmq aiohttp".split()
)
# Too little to test alone, or tested with what it joins.
UNTESTED_ALONE = {"__init__", "__main__", "app", "config"}
LINES_MAX = 500
NO_NOUNS = {"utils", "util", "common", "helpers", "helper", "core", "misc", "base", "tools", "lib"}


def is_shell(module: Path) -> bool:
    inside = module.relative_to("services").with_suffix("")
    if package_of(module) == "cli":
        return inside.name not in CLI_CORES
    names = {str(parent) for parent in (inside, *inside.parents)}
    return inside.name in SHELLS or not names.isdisjoint(MORE_SHELLS)


@pytest.mark.parametrize("module", [each for each in modules() if not is_shell(each)], ids=str)
def test_a_core_touches_nothing(module: Path) -> None:
    """No sockets, clock, processes or event loop outside the shells."""
    touched = {".".join(name.split(".")[:depth]) for name in imports_of(module) for depth in (1, 2)}
    assert touched & WORLD == set()


def test_the_exceptions_are_still_needed() -> None:
    """An exception for a module that has gone would hide the next one of that name."""
    known = {str(module.relative_to("services").with_suffix("")) for module in modules()}
    folders = {str(Path(name).parent) for name in known}
    assert {name for name in MORE_SHELLS if name not in known | folders} == set()


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_four_files(service: str) -> None:
    """Manual page, entry, configuration, wiring."""
    names = {module.name for module in modules() if package_of(module) == service}
    assert {"__init__.py", "__main__.py", "config.py", "app.py"} <= names


@pytest.mark.parametrize("service", [*SERVICES, "cli"])
def test_the_manual_page_is_nothing_else(service: str) -> None:
    """`__init__.py` of a service is its docstring."""
    body = tree_of(Path("services", service, "__init__.py")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)
    assert ast.get_docstring(tree_of(Path("services", service, "__init__.py")), clean=False).count("\n") > 5  # type: ignore[union-attr]


@pytest.mark.parametrize("service", SERVICES)
def test_the_entry_has_no_logic(service: str) -> None:
    """`__main__.py` is one call to the skeleton: no functions, no classes, no loops."""
    nodes = {type(node) for node in ast.walk(tree_of(Path("services", service, "__main__.py")))}
    assert nodes.isdisjoint({ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try})


@pytest.mark.parametrize("module", modules(), ids=str)
def test_every_module_says_what_it_is(module: Path) -> None:
    """It opens with a sentence, and is one chapter long."""
    assert ast.get_docstring(tree_of(module)), "no docstring"
    assert (PROJECT / module).read_text().count("\n") <= LINES_MAX


@pytest.mark.parametrize("module", modules(), ids=str)
def test_every_module_is_named_by_a_noun(module: Path) -> None:
    """There is no drawer for what fits nowhere."""
    assert NO_NOUNS.isdisjoint({part.removesuffix(".py") for part in module.parts})


def needs_tests(module: Path) -> bool:
    """Values and protocols, without behaviour, are tested by whatever makes and reads them."""
    parts = [each for each in tree_of(module).body if not (isinstance(each, ast.ClassDef) and _is_protocol(each))]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    behaves = any(isinstance(node, functions) for part in parts for node in ast.walk(part))
    return behaves and module.stem not in UNTESTED_ALONE


def _is_protocol(definition: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in definition.bases)


@pytest.mark.parametrize("module", [each for each in modules() if needs_tests(each)], ids=str)
def test_every_module_has_its_tests_at_the_same_path(module: Path) -> None:
    """tests/<package>/test_<module>.py."""
    inside = module.relative_to("services")
    assert (PROJECT / "tests" / inside.with_name(f"test_{inside.name}")).is_file()


@pytest.mark.parametrize("module", modules(), ids=str)
def test_names_carry_their_units(module: Path) -> None:
    """A timeout without a unit is a bug that waits."""
    named = {node.arg for node in ast.walk(tree_of(module)) if isinstance(node, ast.arg)}
    named |= {node.target.id for node in ast.walk(tree_of(module)) if _is_field(node)}  # type: ignore[attr-defined]
    assert {name for name in named if re.search(r"(^|_)(timeout|interval|duration|delay)$", name)} == set()


def _is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
