"""
The least that a proxy in Python can cost: TLS on both sides, bytes passed on, and nothing else.

    python bench/floor.py --listen 9443 --to 18443 --host NAME --leaf cert-and-key.pem --trust ca.pem
        [--write] [--parse]

Runs beside others as `bench/beside.py` does, for comparison: what mitm takes above it is what mitm does more. No proxy
to use: it has no limits, one fixed certificate, and knows a response's end by its last bytes.

--write  Append an entry of the journal's size for each piece of a response to a file, with one write for all that a
         wake-up brings, before any of it goes on.
--parse  Parse the event in each piece, and take the counts out of it.
"""

import argparse
import gc
import os
import select
import socket
import ssl
import tempfile
from collections.abc import Callable
from struct import pack
from zlib import crc32

import orjson

_READ_BYTES = 64 * 1024
_LAST_CHUNK = b"0\r\n\r\n"


class Floor:
    """Everything that lives as long as the process."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.ends: dict[int, End] = {}
        self.cipher = memoryview(bytearray(_READ_BYTES))
        self.plain = bytearray(_READ_BYTES + 20 * 1024)
        self.view = memoryview(self.plain)
        self.shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.shown.load_cert_chain(arguments.leaf)
        self.shown.num_tickets = 0
        self.trusting = ssl.create_default_context(cafile=arguments.trust)
        self.pool: list[End] = []
        self.noted: list[bytes] = []
        self.leaving: list[tuple[Callable[[bytes], int], bytes]] = []
        self.entries = tempfile.TemporaryFile(buffering=0)
        self.listening = socket.create_server(("127.0.0.1", arguments.listen), backlog=4096)
        self.listening.setblocking(False)
        self.epoll.register(self.listening.fileno(), select.EPOLLIN)
        self.handlers[self.listening.fileno()] = self.accept

    def run(self) -> None:
        """Run until killed."""
        gc.freeze()
        poll, handlers = self.epoll.poll, self.handlers
        while True:
            for descriptor, _ in poll(-1, 256):
                try:
                    if descriptor in handlers:
                        handlers[descriptor]()
                except BlockingIOError:
                    pass
                except OSError:  # of the socket or of TLS
                    self.ends[descriptor].close()
            if self.noted:
                os.write(self.entries.fileno(), b"".join(self.noted))
                self.noted.clear()
            for send, data in self.leaving:
                send(data)  # nobody is so slow here that it would not take it
            self.leaving.clear()

    def accept(self) -> None:
        while True:  # until BlockingIOError
            sock, _ = self.listening.accept()
            End(self, sock, self.shown, None).shake_hands_then(End.serve)

    def dial(self, client: "End") -> None:
        def ready(upstream: End) -> None:
            upstream.answer_to(client)
            upstream.send(client.held)
            client.held.clear()

        sock = socket.create_connection(("127.0.0.1", self.arguments.to))
        upstream = End(self, sock, self.trusting, self.arguments.host)
        upstream.shake_hands_then(ready)()


class End:
    """One connection under TLS."""

    __slots__ = ("floor", "held", "incoming", "other", "outgoing", "read", "recv_into", "shake", "sock", "write")

    def __init__(self, floor: Floor, sock: socket.socket, context: ssl.SSLContext, host: str | None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.floor = floor
        self.held = bytearray()  # what is to be sent once there is an upstream
        self.sock = sock
        self.recv_into = sock.recv_into
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(self.incoming, self.outgoing, server_side=host is None, server_hostname=host)
        self.shake, self.read, self.write = tls.do_handshake, tls._sslobj.read, tls._sslobj.write
        self.other: End | None = None
        floor.ends[sock.fileno()] = self
        floor.epoll.register(sock.fileno(), select.EPOLLIN)

    def shake_hands_then(self, ready: Callable[["End"], None]) -> Callable[[], None]:
        """Return what takes the next step, for the end that speaks first."""

        def more() -> None:
            size = self.recv_into(self.floor.cipher)
            if not size:
                raise ConnectionResetError
            self.incoming.write(self.floor.cipher[:size])
            step()

        def step() -> None:
            try:
                self.shake()
            except ssl.SSLWantReadError:
                self.sock.send(self.outgoing.read())
                return
            if self.outgoing.pending:
                self.sock.send(self.outgoing.read())
            ready(self)

        self.floor.handlers[self.sock.fileno()] = more
        return step

    def close(self) -> None:
        for end in (self, self.other):
            if end is not None and self.floor.ends.pop(end.sock.fileno(), None):
                del self.floor.handlers[end.sock.fileno()]
                end.sock.close()
        if self in self.floor.pool:
            self.floor.pool.remove(self)

    def serve(self) -> None:
        """Be the client's end."""
        self.floor.handlers[self.sock.fileno()] = self.on_request
        if self.incoming.pending:
            self.take_request(self.decrypt())

    def receive(self) -> int:
        size = self.recv_into(self.floor.cipher)
        if not size:
            raise ConnectionResetError
        self.incoming.write(self.floor.cipher[:size])
        return self.decrypt()

    def decrypt(self) -> int:
        size = self.read(_READ_BYTES, self.floor.view)
        while self.incoming.pending:
            size += self.read(_READ_BYTES, self.floor.view[size:])
        return size

    def send(self, data: memoryview | bytearray) -> None:
        self.write(data)
        if self.floor.arguments.write:
            self.floor.leaving.append((self.sock.send, self.outgoing.read()))
        else:
            self.sock.send(self.outgoing.read())

    def on_request(self) -> None:
        self.take_request(self.receive())

    def take_request(self, size: int) -> None:
        floor = self.floor
        if self.other is not None:
            self.other.send(floor.view[:size])
        elif floor.pool:
            floor.pool.pop().answer_to(self)
            self.take_request(size)
        else:
            self.held += floor.view[:size]
            if len(self.held) == size:
                floor.dial(self)

    def answer_to(self, client: "End") -> None:
        self.other, client.other = client, self
        self.floor.handlers[self.sock.fileno()] = self.on_response

    def on_response(self) -> None:
        size = self.receive()
        floor, client = self.floor, self.other
        assert client is not None
        if floor.arguments.write or floor.arguments.parse:
            self.look(floor.plain, size)
        client.send(floor.view[:size])
        if floor.plain.endswith(_LAST_CHUNK, 0, size):
            self.other = client.other = None
            floor.pool.append(self)

    def look(self, plain: bytearray, size: int) -> None:
        start = plain.find(b"\r\n", 0, 12) + 2
        if not plain.startswith(b"data: ", start):
            return
        total = size
        if self.floor.arguments.parse:
            end = start + int(plain[: start - 2], 16)
            usage = orjson.loads(self.floor.view[start + 6 : end])["response"]["usageMetadata"]
            total = usage["promptTokenCount"] + usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]
        if self.floor.arguments.write:
            entry = b'{"usage":{"input_tokens":%d,"output_tokens":%d,"total_tokens":%d}}' % (total, total, total)
            self.floor.noted.append(pack("<II", len(entry), crc32(entry)) + entry)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="The floor of a proxy in Python.")
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--to", type=int, required=True, help="upstream port on 127.0.0.1")
    parser.add_argument("--host", required=True)
    parser.add_argument("--leaf", required=True, help="certificate and key to show")
    parser.add_argument("--trust", required=True, help="authority of the upstream")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--parse", action="store_true")
    Floor(parser.parse_args()).run()


if __name__ == "__main__":
    main()
