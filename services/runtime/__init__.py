"""
runtime: the skeleton of every process.

settings     wiremeter.toml and the environment -> typed values, all mistakes at once
state        the state directory: what lives where, with which rights
environment  what a metered program is started with: trust, proxy, name
logs         one JSON object per line on stderr
run          event loop, signals, exit status, the tie to supervisord

A stage: imports none of ours.
"""
