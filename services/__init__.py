"""
The map: what happens to a byte, and the order to read in.

    bytes ──▶ TLS ──▶ HTTP message ──▶ usage ──▶ event ──▶ bus ──▶ ledger ──▶ query
              mitm    wire             dialects   events    bus     ledger     frontproxy, cli

    events      what happened, as values                               read this first
    wire        bytes to protocol parts, in any split
    dialects    HTTP parts to token counts, one module per provider API
    mitm        the proxy: carries the bytes, lets wire and dialects watch
    bus         events from process to process, journaled so that none is lost
    accountant  commits them and publishes what it committed
    ledger      rows and answers
    lsrunner    the language server: its user, its life, its protocol
    frontproxy  the HTTP API: usage, and prompts for the language server
    cli         the `wiremeter` command
    runtime     the frame of every process: configuration, state directory, logs, signals

Stages (events, wire, dialects, bus, ledger, runtime) are libraries; services (mitm, accountant, lsrunner, frontproxy,
cli) import stages and never each other. What two of them must agree on is an event or an address on the bus.
"""
