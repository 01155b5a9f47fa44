"""
The tables, one migration per version of the ledger; `PRAGMA user_version` says how many have been applied.

A migration that has been released is never changed: add another.
"""

MIGRATIONS: tuple[str, ...] = (
    """
    -- One life of one publisher, and the number up to which its records are committed.
    CREATE TABLE source (
        id INTEGER PRIMARY KEY,
        publisher TEXT NOT NULL,
        epoch TEXT NOT NULL,
        cursor INTEGER NOT NULL,
        UNIQUE (publisher, epoch)
    );

    -- What records are grouped by.
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        provider TEXT NOT NULL,
        model TEXT,
        label TEXT,
        uid INTEGER,
        outcome TEXT NOT NULL
    );
    CREATE UNIQUE INDEX series_key ON series
        (provider, ifnull(model, ''), ifnull(label, ''), ifnull(uid, -1), outcome);

    -- The records: seq is the ledger's own number, without gaps; body the published JSON without schema and seq.
    CREATE TABLE usage (
        seq INTEGER PRIMARY KEY,
        source INTEGER NOT NULL REFERENCES source,
        source_seq INTEGER NOT NULL,
        at_unix_us INTEGER NOT NULL,
        series INTEGER NOT NULL REFERENCES series,
        counts TEXT NOT NULL,
        body TEXT NOT NULL,
        UNIQUE (source, source_seq)
    );
    CREATE INDEX usage_at ON usage (at_unix_us);

    -- Records that could not be read, and (records > 1 possible) those that their publisher no longer had.
    CREATE TABLE refused (
        source INTEGER NOT NULL REFERENCES source,
        source_seq INTEGER NOT NULL,
        at_unix_us INTEGER NOT NULL,
        records INTEGER NOT NULL,
        reason TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        PRIMARY KEY (source, source_seq)
    ) WITHOUT ROWID;

    CREATE TABLE measure (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    );

    -- Sums by period (level 1 hour, 2 day, 3 month; numbered from 1970), series and measure.
    CREATE TABLE rollup (
        level INTEGER NOT NULL,
        period INTEGER NOT NULL,
        series INTEGER NOT NULL REFERENCES series,
        measure INTEGER NOT NULL REFERENCES measure,
        total NUMERIC NOT NULL,
        reported INTEGER NOT NULL,
        PRIMARY KEY (level, period, series, measure)
    ) WITHOUT ROWID;

    CREATE TABLE exchange_series (
        id INTEGER PRIMARY KEY,
        host TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        status_class INTEGER
    );
    CREATE UNIQUE INDEX exchange_series_key ON exchange_series (host, endpoint, ifnull(status_class, -1));

    -- Exchanges without usage, and tunnels: only these sums are kept of them.
    CREATE TABLE exchange_rollup (
        level INTEGER NOT NULL,
        period INTEGER NOT NULL,
        series INTEGER NOT NULL REFERENCES exchange_series,
        exchanges INTEGER NOT NULL,
        bytes_up INTEGER NOT NULL,
        bytes_down INTEGER NOT NULL,
        PRIMARY KEY (level, period, series)
    ) WITHOUT ROWID;
    """,
    """
    -- Sums by ten minutes are level 0 of rollup. From which period on there are sums of a level, for all records: ten
    -- minutes are not added up anew for what was recorded before, so that a large ledger opens as fast as a small one.
    CREATE TABLE kept (
        level INTEGER PRIMARY KEY,
        first_period INTEGER NOT NULL
    );
    INSERT INTO kept SELECT 0, ifnull(max(at_unix_us) / 600000000 + 1, 0) FROM usage;
    """,
)
VERSION = len(MIGRATIONS)
