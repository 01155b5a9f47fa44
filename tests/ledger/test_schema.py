"""Migrations: a ledger of any earlier version becomes one of this version, once."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from services.ledger.schema import MIGRATIONS, VERSION
from services.ledger.store import LedgerStore, LedgerUnusable


def tables(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT type, name FROM sqlite_master ORDER BY 1, 2").fetchall()


def kept(path: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT level, first_period FROM kept").fetchall()


def test_a_new_ledger_has_this_version(tmp_path: Path) -> None:
    """And opening it again changes nothing."""
    path = tmp_path / "ledger.sqlite3"
    LedgerStore(path).close()
    before = tables(path)
    LedgerStore(path).close()
    assert tables(path) == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_an_older_ledger_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    """From every version that there was."""
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        for script in MIGRATIONS[:version]:
            connection.executescript(script)
        connection.execute(f"PRAGMA user_version={version}")
    LedgerStore(path).close()
    fresh = tmp_path / "fresh.sqlite3"
    LedgerStore(fresh).close()
    assert tables(path) == tables(fresh)


def test_sums_that_an_older_ledger_had_not_are_kept_from_its_last_record_on(tmp_path: Path) -> None:
    """Nothing of it is added up anew, however large it is; a ledger that begins today has them from the beginning."""
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(MIGRATIONS[0])
        connection.execute("INSERT INTO usage VALUES (1, 1, 1, 1234567890123456, 1, '{}', '{}')")
        connection.execute("PRAGMA user_version=1")
        connection.commit()
    LedgerStore(path).close()
    LedgerStore(tmp_path / "fresh.sqlite3").close()
    assert kept(path) == [(0, 1234567890123456 // 600_000_000 + 1)]
    assert kept(tmp_path / "fresh.sqlite3") == [(0, 0)]


def test_a_newer_ledger_is_not_touched(tmp_path: Path) -> None:
    """A program that does not know its tables could only damage it."""
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={VERSION + 1}")
    with pytest.raises(LedgerUnusable, match=f"has version {VERSION + 1}, this program knows {VERSION}"):
        LedgerStore(path)
