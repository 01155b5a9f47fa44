"""
cli: the `wiremeter` command, for people.

    up            start everything, send one prompt, show what it cost       (make run)
    down          stop everything                                            (make stop)
    status        the processes, as supervisord sees them
    health        the processes, as they see themselves
    usage         what was spent, by model, from the ledger
    tail          what is being spent, from the usage topic
    check-config  every mistake in the configuration

A client like any other: of supervisord's control socket (process), of frontproxy's HTTP API (upstream), of the ledger
and of the public usage topic. It imports no service. One module per command; `tables` and `lines` are cores.

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 not running, 78 a mistake in the configuration.
"""
