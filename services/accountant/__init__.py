"""
accountant: the one writer of the ledger, and the publisher of what it has committed.

Listens    exchange.ipc and mark.ipc (with every mitm), usage.ipc and accountant.usage_endpoint (with anyone).
Takes      exchange batches and hellos; turns and the state of the language server, to say whose a record is.
Publishes  UsageRecorded as `usage.<provider>.<model>`, after its commit, with the ledger's gap-free `seq`; marks.
Keeps      ledger.sqlite3: a record if and only if it is the next one of its epoch, together with that number, in one
           transaction. So nothing is lost that a publisher has journaled, and nothing is counted twice.
Fails      a ledger that cannot be opened or written is tried again, more and more slowly, up to every 5 s; the process
           lives and says so in its heartbeat, the publishers keep their journals. A record that cannot be read is
           refused: noted, counted, passed over. An endpoint that is taken ends the process with status 1 and one line.
           Dying between commit and publication leaves a gap on the topic, never in the ledger: subscribers see it in
           `seq` and ask `GET /v1/usage/events?after=<seq>`.
"""
