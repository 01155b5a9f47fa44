"""
ledger: records to rows, rows to answers.

entry        one record as a row: time, series, counts, the JSON that the topic and the API show
periods      ten minutes, hours, days and months, and how a window is cut into them
rollups      records added up by period and series
schema       the tables, one migration per version
store        SQLite: `LedgerStore` for the one writer, `LedgerReader` for everybody
snapshot     what is asked of the tables
window       the times and groups that people ask for
report       sums to the usage report
completions  sums to the buckets of OpenAI's usage API

A record is kept once, as it was published, with a gap-free number of the ledger's own. Sums are kept by ten minutes,
hour, day and month for every series: provider, model, client label, uid and outcome. Each sum has beside it how many
records reported that count, so that "nobody said" never looks like zero. A ledger that is older than a level is not
added up anew: `kept` says from when on there are sums, and before that records are added up when somebody asks.

The home of sqlite3 is `store`; nothing else touches the world.
Prices and costs will attach to the series and the periods; the tables have a version (`PRAGMA user_version`).
"""
