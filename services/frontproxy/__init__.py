"""
frontproxy: the HTTP API, usage queries and the language server's surfaces.

Listens    HTTP on frontproxy.port, 127.0.0.1 and ::1.
           GET /v1/usage, /v1/usage/events, /v1/organization/usage/completions   from the ledger
           GET /v1/models, POST /v1/chat/completions                             the language server
           GET /health, /metrics                                                 the state of everything
Binds      health.ipc: the heartbeats of every process.
Publishes  TurnRequested, TurnCancelled (services.events.turn).
Hears      TurnAccepted, TurnDelta, TurnDone, TurnFailed, LanguageServerState, UsageRecorded, ProcessBeat.
Keeps      nothing: answers are in memory while they are written, prompts too, and neither is ever logged.
Fails      a turn that fails ends its own request; a port in use ends the process with status 1.

The way through the package: `server` takes a request and alone decides what a client is told; `guard` and `bodies`
check it, a surface (`openai_chat`) reads it and writes the answer; `backend` carries the turn over the bus, `turns`
decides what each event of it means, `joining` adds up what the wire said it used.

A new surface is one module with a class of the shape `surfaces.Surface`, and one line in `app.py`.
"""
