"""
cli: the `wiremeter` command, for people.

    up            start everything, send one prompt, show what it cost       (make run)
    down          stop everything                                            (make stop)
    status        the processes, as supervisord sees them
    health        the processes, as they see themselves
    usage         what was spent, by model, from the ledger
    tail          what is being spent, from the usage topic
    run           any program, metered, and what it used
    check-config  every mistake in the configuration

A client like any other: of supervisord's control socket (process), of frontproxy's HTTP API (upstream), of the ledger
and of the public usage topic. It imports no service. One module per command; `arguments`, `tables`, `lines`,
`readiness` and `summary` are cores.

`run` shares the terminal with the program it runs (foreground).

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 not running, 78 a mistake in the configuration; that of its program
for `run`.
"""
