"""
mitm: reads the TLS traffic of the LLM hosts in clear and reports what it used.

Listens    127.0.0.1 and ::1, port mitm.port: redirected TLS connections and HTTP CONNECT.
Connects   to the providers, always verified; to the bus.
Publishes  UsageRecorded, ExchangeCounted (services.events.exchange), journaled first; ProcessBeat.
Keeps      the certificate authority in ca/, the trust bundle, the journal of what is not committed yet.
Runs       several times side by side: `python -m services.mitm N`.
Fails      a broken exchange ends its own connection; broken shared state ends the process with status 1 and supervisord
           starts it again. Connections break with it; journaled usage is delivered after the restart.

Read it in the order of a connection's life: server, arrival, relay (for HTTP/2 http2_relay, http2_exchange,
http2_flow), observer, which reads, observation and records, which write, and outbox, where they write. Below them
stream and poller move the bytes, passage the simplest of them a shorter way, and convoy holds what is sent until what
was noted is written; upstream finds the provider, authority and keystore make the certificates, peer and known_peer say
who connects.
"""
