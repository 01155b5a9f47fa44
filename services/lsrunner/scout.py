"""
Looks at the machine with the eyes of the language server's user, for the runner, which has other rights.

    scout.py look WORKSPACE FILE ...   where it can live: one JSON object
    scout.py canary HOST ...           a connection to port 443 of each host, kept open: one JSON object
    scout.py forget DIRECTORY          remove a home that `look` made

`look` prints {"python": [3, 11], "uid": …, "home": …, "made_home": bool, "workspace": …, "unreadable": [FILE, …]}. The
home is the password file's where that is a directory the user can write to, else a new private one; WORKSPACE is made
in the home when it is a relative path. With an unreadable FILE it prints that member only, and makes nothing.

`canary` prints {"<host>": {"port": <its own port> or null, "error": …, "udp": "refused" | "open" | …}, …} and waits for
the end of its input, so that the runner can see at whose end the connections arrived. Then it says a ClientHello for
`canary.wiremeter.invalid`, so that the proxy can tell what it was, and closes.

Stand-alone, as `guard.py` is and for the same reason.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import sys
import tempfile

CANARY_NAME = "canary.wiremeter.invalid"
_CONNECT_TIMEOUT_S = 5.0
_HOME_PREFIX = "wiremeter-home-"


def look(workspace: str, files: list[str]) -> dict[str, object]:
    """Find a home and a workspace; name the files that cannot be read, in which case nothing is made."""
    unreadable = [path for path in files if not is_readable(path)]
    if unreadable:
        return {"unreadable": unreadable}
    home, made = find_home()
    place = os.path.join(home, workspace)
    os.makedirs(place, mode=0o700, exist_ok=True)
    return {
        "python": list(sys.version_info[:2]),
        "uid": os.geteuid(),
        "home": home,
        "made_home": made,
        "workspace": place,
        "unreadable": [],
    }


def find_home() -> tuple[str, bool]:
    """Return a directory of this user, and whether it is new."""
    home = pwd.getpwuid(os.geteuid()).pw_dir
    # "/" and the like are writable for root only; a home that others may write to is not private.
    if os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK) and os.stat(home).st_uid == os.geteuid():
        return home, False
    return tempfile.mkdtemp(prefix=_HOME_PREFIX), True


def is_readable(path: str) -> bool:
    """Try it: rights on the way to a file count too."""
    try:
        with open(path, "rb") as file:
            return len(file.read(1)) == 1
    except OSError:
        return False


def canary(hosts: list[str]) -> None:
    """Connect, tell the ports, wait, say who it was."""
    found = {}
    connections = []
    for host in hosts:
        port, error = None, None
        try:
            connection = socket.create_connection((host, 443), timeout=_CONNECT_TIMEOUT_S)
            connections.append(connection)
            port = connection.getsockname()[1]
        except OSError as problem:
            error = problem.strerror or str(problem)
        found[host] = {"port": port, "error": error, "udp": udp_answer(host)}
    print_line(found)
    sys.stdin.buffer.read()
    for connection in connections:
        try:
            connection.sendall(client_hello())
        except OSError:
            pass
        connection.close()


def udp_answer(host: str) -> str:
    """Say what becomes of a datagram to port 443: `refused` is what keeps QUIC from going past the meter."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", (host, 443))
    except PermissionError:
        return "refused"
    except OSError as error:
        return error.strerror or str(error)
    return "open"


def client_hello() -> bytes:
    """Return the first flight of a TLS client that wants `CANARY_NAME`."""
    import ssl  # a third of this script's start, and `look`, which every start waits for, needs none of it

    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=CANARY_NAME).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def forget(directory: str) -> None:
    """Remove a home that `look` made, and nothing else."""
    if os.path.basename(directory).startswith(_HOME_PREFIX) and not os.path.islink(directory):
        shutil.rmtree(directory, ignore_errors=True)


def print_line(value: object) -> None:
    """Write one JSON object."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Do what was asked."""
    if len(arguments) >= 2 and arguments[0] == "look":
        print_line(look(arguments[1], arguments[2:]))
    elif len(arguments) >= 2 and arguments[0] == "canary":
        canary(arguments[1:])
    elif len(arguments) == 2 and arguments[0] == "forget":
        forget(arguments[1])
    else:
        sys.stderr.write("usage: scout.py (look WORKSPACE FILE ... | canary HOST ... | forget DIRECTORY)\n")
        return 64
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
