"""
A client of Connect RPC (JSON) on loopback: unary calls and server streams over HTTP or HTTPS.

The language server's certificate is self-signed and made for nobody, so it is not verified; that is acceptable because
only loopback addresses are ever connected to, and any other is refused here. No proxy of the environment is used.
Errors come in two kinds: `RpcRefused`, the server's own answer, and `RpcBroken`, no (sensible) answer at all.
"""

import contextlib
import ipaddress
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from services.lsrunner.envelopes import (
    MESSAGE_BYTES_MAX,
    End,
    EnvelopeError,
    EnvelopeReader,
    JsonObject,
    encode_envelope,
    failure_in,
    parse_object,
)

CALL_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
_ERROR_BYTES_MAX = 64 * 1024
# Connect, "Error codes": what an answer without a Connect error in it stands for.
_CODE_OF_STATUS = {
    400: "internal",
    401: "unauthenticated",
    403: "permission_denied",
    404: "unimplemented",
    429: "unavailable",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}


class RpcError(Exception):
    """A call failed."""


class RpcRefused(RpcError):
    """
    The server answered with an error.

    Attributes:
        code: Connect's word for it, such as `unimplemented`.
        is_connect: It came in Connect's form; else some HTTP server answered with a status, which `code` stands for.
    """

    def __init__(self, method: str, code: str, message: str, *, is_connect: bool = True) -> None:
        super().__init__(f"{method} was refused: {code}: {message}")
        self.code = code
        self.message = message
        self.is_connect = is_connect


class RpcBroken(RpcError):
    """There was no answer, or none that makes sense; the message says of what kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """
    Where a server listens.

    Attributes:
        scheme: `http` or `https`.
        address: A loopback IP address.
    """

    scheme: str
    address: str
    port: int

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.address).is_loopback:
            raise ValueError(f"{self.address} is no loopback address")

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}"


class ConnectClient:
    """Calls the methods of one service; closes its connections with `close`."""

    def __init__(self, origin: Origin, service: str, headers: JsonObject) -> None:
        self._base = f"{origin}/{service}/"
        self._headers = {name: str(value) for name, value in headers.items()} | {"Connect-Protocol-Version": "1"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=False, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            auto_decompress=True,
        )

    async def close(self) -> None:
        """Close all connections; streams in use end."""
        await self._session.close()

    async def call(self, method: str, request: JsonObject, timeout_s: float | None = CALL_TIMEOUT_S) -> JsonObject:
        """
        Make a unary call.

        Args:
            timeout_s: For the whole call; None waits for ever.

        Raises:
            RpcRefused: The server's answer is an error.
            RpcBroken: No connection, no answer in time, or no sense in it.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        with _mapped(method):
            async with self._session.post(
                self._base + method, json=request, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != HTTPStatus.OK:
                    raise await _refusal(method, response)
                return parse_object(await _read(response, MESSAGE_BYTES_MAX))

    async def stream(self, method: str, request: JsonObject) -> AsyncGenerator[JsonObject, None]:
        """
        Make a server-streaming call and yield its messages, with no limit on the time between two.

        Close the iterator (`contextlib.aclosing`) when it is left early; that ends the call at the server.

        Raises:
            RpcRefused: The server ended the stream with an error, at once or in the trailer.
            RpcBroken: As for `call`, also in the middle.
        """
        headers = self._headers | {"Content-Type": "application/connect+json"}
        reader = EnvelopeReader()
        with _mapped(method):
            async with self._session.post(
                self._base + method, data=encode_envelope(request), headers=headers, allow_redirects=False
            ) as response:
                if response.status != HTTPStatus.OK:
                    raise await _refusal(method, response)
                async for data in response.content.iter_any():
                    for message in reader.feed(data):
                        if isinstance(message, End):
                            if message.failure is not None:
                                raise RpcRefused(method, message.failure.code, message.failure.message)
                            return
                        yield message
                reader.end()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > limit:
            raise EnvelopeError(f"an answer of more than {limit} bytes")
    return bytes(body)


async def _refusal(method: str, response: aiohttp.ClientResponse) -> RpcError:
    """Read an error answer: Connect's own JSON, or anything else under an HTTP status."""
    body = await _read(response, _ERROR_BYTES_MAX)
    code = _CODE_OF_STATUS.get(response.status, "unknown")
    try:
        answer = parse_object(body)
    except EnvelopeError:
        answer = {}
    if "code" not in answer:
        return RpcRefused(method, code, f"HTTP status {response.status}", is_connect=False)
    failure = failure_in(answer)
    assert failure is not None
    return RpcRefused(method, failure.code, failure.message)


@contextlib.contextmanager
def _mapped(method: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise RpcBroken(f"{method} took too long") from error
    except (aiohttp.ClientError, OSError) as error:
        raise RpcBroken(f"{method} broke off: {type(error).__name__}") from error
    except EnvelopeError as error:
        raise RpcBroken(f"{method} answered nonsense: {error}") from error
