"""The project's own files, for tests of its rules."""

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_LEFT_BY_TOOLS = re.compile(
    r"(^|/)(\.git|\.venv|\.\w+_cache|\.hypothesis|__pycache__|build|dist|run|[^/]*\.egg-info)(/|$)"
)


@functools.cache
def modules() -> tuple[Path, ...]:
    """List the modules of the product, relative to the project."""
    return tuple(sorted(path.relative_to(PROJECT) for path in (PROJECT / "services").rglob("*.py")))


@functools.cache
def files() -> tuple[Path, ...]:
    """List what belongs to the project: what git knows or would take, else (without git) all but what tools leave."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    else:
        names = [path.relative_to(PROJECT) for path in PROJECT.rglob("*")]
        names = [path for path in names if not _LEFT_BY_TOOLS.search(str(path))]
    return tuple(sorted(path for path in names if (PROJECT / path).is_file()))


@functools.cache
def tree_of(module: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse((PROJECT / module).read_text(encoding="utf-8"), filename=str(module))


def imports_of(module: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, wherever it does."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(module: Path) -> str:
    """Return the stage or service that a module belongs to; empty for services/__init__.py."""
    return module.parts[1] if len(module.parts) > 2 else ""
