"""The scripts that run as another user, with whatever Python the system has."""

import ast
import sys

import pytest

from tests.support.checkout import PROJECT

SCRIPTS = ("guard.py", "scout.py", "simulated_server.py")


@pytest.mark.parametrize("name", SCRIPTS)
def test_they_are_written_in_the_python_of_an_old_system(name):
    """3.7 is the oldest that they promise."""
    ast.parse((PROJECT / "services" / "lsrunner" / name).read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("name", SCRIPTS)
def test_they_import_the_standard_library_only(name):
    """Nothing of ours or others is where they run."""
    tree = ast.parse((PROJECT / "services" / "lsrunner" / name).read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert all(each.partition(".")[0] in sys.stdlib_module_names for each in names), names
