"""Who may import whom, and where each technology lives."""

from pathlib import Path

import pytest

from tests.support.source import imports_of, modules, package_of

STAGES = {"events", "wire", "dialects", "bus", "ledger", "runtime"}
SERVICES = {"frontproxy", "mitm", "lsrunner", "accountant", "cli"}
# Whoever is not named here may import every stage and itself.
ALLOWED = {
    "events": set[str](),
    "wire": set[str](),
    "runtime": set[str](),
    "dialects": {"wire", "events"},
    "bus": {"events"},
    "ledger": {"events"},
}
HOMES = {
    "zmq": ("services/bus/",),
    "sqlite3": ("services/ledger/store.py",),
    "uvloop": ("services/runtime/run.py",),
    "h2": ("services/wire/http2.py",),
    "cryptography": ("services/mitm/authority.py", "services/mitm/keystore.py"),
}


def test_every_package_is_a_stage_or_a_service() -> None:
    """Code that fits nowhere is a noun that has not been named yet."""
    assert {package_of(module) for module in modules()} - {""} == STAGES | SERVICES


@pytest.mark.parametrize("module", modules(), ids=str)
def test_the_arrows_point_along_the_flow(module: Path) -> None:
    """A stage imports what stands before it, a service any stage, nobody another service."""
    here = package_of(module)
    allowed = ALLOWED.get(here, STAGES) | {here}
    imported = {name.split(".")[1] for name in imports_of(module) if name.startswith("services.")}
    assert imported <= allowed


@pytest.mark.parametrize("technology", HOMES)
def test_each_technology_has_one_home(technology: str) -> None:
    """To replace it is to change one place."""
    users = {str(module) for module in modules() if technology in {name.split(".")[0] for name in imports_of(module)}}
    assert {user for user in users if not user.startswith(HOMES[technology])} == set()


@pytest.mark.parametrize("module", modules(), ids=str)
def test_nothing_of_the_tests_is_in_the_product(module: Path) -> None:
    """Neither our tests nor the tools that they use."""
    used = {name.split(".")[0] for name in imports_of(module)}
    assert used.isdisjoint({"tests", "pytest", "hypothesis", "h11", "wsproto", "openai", "anthropic"})
