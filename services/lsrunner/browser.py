"""
A stand-in for the browser: catches the address at which the user signs in.

The language server opens its sign-in page with `xdg-open`. A script of that name, first on its PATH, hands the address
to a UNIX socket beside it, where this listens; the user is then shown it. The script runs as the language server's
user, so script and socket lie in a directory that it can read, and only that user (and ours) is listened to.

Resources: `listening` holds the socket and removes it at the end. The script stays; each start writes it anew.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

from services.lsrunner.hub import login_url_in

_ADDRESS_BYTES_MAX = 16 * 1024
_READ_TIMEOUT_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid
_SCRIPT = """\
#!{python} -IS
# Written by Wiremeter: tells it which page the language server wants to open.
import os, socket, sys

folder = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
with socket.socket(socket.AF_UNIX) as listener:
    listener.settimeout(5)
    listener.connect(os.path.join(folder, "sign-in.sock"))
    listener.sendall(" ".join(sys.argv[1:]).encode() + b"\\n")
"""


class Browser:
    """Catches addresses in `folder`, from processes of `uid`."""

    def __init__(self, folder: Path, python: str, uid: int) -> None:
        self._folder = folder
        self._python = python
        self._uid = uid
        self._addresses: asyncio.Queue[str] = asyncio.Queue()

    @property
    def path(self) -> Path:
        """The directory to put first on the language server's PATH."""
        return self._folder / "bin"

    def install(self) -> None:
        """
        Write the script.

        Raises:
            OSError: It cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o755)
        temporary = self.path / "xdg-open.new"
        temporary.write_text(_SCRIPT.format(python=self._python))
        temporary.chmod(0o755)
        temporary.rename(self.path / "xdg-open")

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """
        Listen while the block runs.

        Raises:
            OSError: The socket cannot be made.
        """
        path = self._folder / "sign-in.sock"
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, path, limit=_ADDRESS_BYTES_MAX)
        try:
            path.chmod(0o666)  # who may speak is decided by the peer's credentials
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)

    def offer(self, address: str) -> None:
        """Take an address that came another way: some builds write it into their log."""
        self._addresses.put_nowait(address)

    async def address(self) -> str:
        """Wait for the next address."""
        return await self._addresses.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _uid_of_peer(writer) in (self._uid, os.geteuid()):
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    line = await reader.readline()
                url = login_url_in(line.decode(errors="replace"))
                if url is not None:
                    self.offer(url)
        except (TimeoutError, OSError, ValueError):
            pass  # a visitor who says nothing, or too much
        finally:
            writer.close()


def _uid_of_peer(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid
