"""
bus: events to ZeroMQ and back.

addresses   which socket is where, who binds it
segment     the format of a journal's entries
store       epochs on disk: segments, their records in order, what was left unfinished
draft       what an exchange that is not over says so far
limits      how much of it there may be, and for how long
tail        the newest records, in memory
waiting     records that the disk has no room for yet
journal     what a publisher has not yet been told is committed
sending     go-back-N: which records to send next
delivery    what publishers and the accountant tell each other
publisher   events out; journal first, publish second, send again what stands still
subscriber  events in
beat        heartbeats
rhythm      the moments of what is repeated

The home of zmq. Internal sockets are `ipc://` in the run directory; messages have two frames: topic, one JSON object.
Losing or doubling nothing rests on four rules: a start of a publisher is an epoch with a random name; its records are
numbered 1, 2, 3…; the accountant takes a record if and only if it is the next one of its epoch and commits it together
with that number; a publisher deletes only what it has been told is committed.
"""
