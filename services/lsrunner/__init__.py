"""
lsrunner: starts, feeds, watches and stops the language server.

Runs       one language server, as the user `[lsrunner] user` by sudo, else as the current user; by a profile:
           antigravity, acp, command, simulated (services.lsrunner.profiles). With the profile simulated also the
           stand-in of its provider, HTTPS on 127.0.0.1:[simulator] port.
Takes      TurnRequested, TurnCancelled from the socket that it binds for them (services.bus.addresses).
Publishes  TurnAccepted, TurnDelta, TurnDone, TurnFailed under `turn.<id>`; LanguageServerState under `ls.state`, at
           every change and once a second; a heartbeat that names what is missing: another user, the redirect, a
           sign-in.
Reads      the trust bundle and the simulated provider's certificate, which mitm writes; waits for them.
Writes     copies of guard.py, scout.py and simulated_server.py to the shared directory, for the other user to execute.
Fails      a language server that does not start or ends is started again, after one second, two, four, up to sixty, for
           ever; its turns fail and say why. The process itself ends only when it is asked to, or by a mistake of ours.
           However it ends, the language server ends with it (guard.py).

Read in this order: profiles/__init__.py (the interface), supervision.py (the states), lodging.py and probe.py (user and
way), guard.py, process.py, backend.py (one life after another), turns.py, server.py, app.py.
"""
