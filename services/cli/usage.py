"""`wiremeter usage`: what was spent, by model, read from the ledger itself: whether or not Wiremeter is running."""

import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import orjson

from services.cli.tables import usage_table
from services.ledger.store import LedgerReader, LedgerUnusable
from services.ledger.window import LedgerQueryInvalid


def usage(ledger: Path, *, since: datetime | None, until: datetime | None, as_json: bool) -> int:
    """Print the report over a window; return the exit status."""
    if not ledger.exists():
        print(f"there is no ledger yet at {ledger}; it is made when Wiremeter first runs: make run", file=sys.stderr)
        return 1
    with closing(LedgerReader(ledger)) as reader:
        try:
            report = reader.report(since, until)
        except (LedgerQueryInvalid, LedgerUnusable) as error:
            print(error, file=sys.stderr)
            return 1
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() if as_json else usage_table(report))
    return 0
