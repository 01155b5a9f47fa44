"""
events: what happened, as values, and the bytes in which it travels on the bus.

usage      one response of a provider and what it reported (`ResponseUsage`, `UsageRecord`)
exchange   what mitm finished and sends to the accountant
turn       one prompt turn, from frontproxy to lsrunner and back
lifecycle  heartbeats of the processes, the state of the language server
usual      whether an event is as our own writers write it, in one look
verbatim   the same of its bytes, before anybody parses them
codec      JSON on the bus: every object begins with `"schema": "wiremeter.<name>/<version>"`

A stage: imports none of ours. Facts are past participles.
"""
