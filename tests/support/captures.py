"""
Captures: exchanges as text files, `tests/captures/<dialect module>/<what it shows>.txt`.

A file has four parts, each after a line `--- name`:

    title: what a reader must get right here
    source: composed, or where it was recorded
    date: 2026-11-23
    --- expected      one JSON object per line: the record with its outcome, then one for each extra record
    --- request       method and URL, header lines, an empty line, the body
    --- response      status, header lines, an empty line, the body to the end of the file

Files have LF line ends. `line-ends: crlf` or `cr` among the response's header lines gives the body others, and
`last-line: open` takes the line ends off its end; neither is a header of the response.

The body of an AWS event stream is written as one line for each message: `event NAME JSON`, `exception NAME JSON`, or
`chunk JSON` for an event whose payload holds the JSON in base64. The line `cut: N` among the header lines takes N bytes
off the end of what becomes of them.

The body of a gRPC request or response is one line for each message: `message JSON`, or `gzip JSON` and `deflate JSON`
for a compressed one, where the JSON has field numbers for names. `grpc-status` is a field behind the body.
"""

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.eventstream import event
from tests.support.protobuf import grpc_message, message

CAPTURES = Path(__file__).resolve().parents[1] / "captures"
GRPC = "application/grpc"
TRAILER_FIELDS = ("grpc-status",)
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One exchange, and the records that it must give; a record holds what was reported and nothing else."""

    name: str
    title: str
    method: str
    host: str
    target: str
    request_body: bytes
    status: int
    content_type: str
    headers: dict[str, str]
    trailer: dict[str, str]
    response_body: bytes
    expected: tuple[dict[str, object], ...]

    def __str__(self) -> str:
        return self.name


def captures(dialect: str) -> list[Capture]:
    """Return the captures of one dialect; there must be some."""
    found = [read_capture(path) for path in sorted((CAPTURES / dialect).glob("*.txt"))]
    assert found, f"no captures of {dialect}"
    return found


def read_capture(path: Path) -> Capture:
    """Read one capture file."""
    head, expected, request, response = re.split(rb"^--- .*\n", path.read_bytes(), flags=re.MULTILINE)
    about = dict(line.split(": ", 1) for line in head.decode().splitlines())
    assert about.keys() == {"title", "source", "date"}, path
    request_lines, request_body = _head_and_body(request)
    response_lines, response_body = _head_and_body(response)
    fields = dict(line.split(": ", 1) for line in response_lines[1:])
    trailer = {name: fields.pop(name) for name in TRAILER_FIELDS if name in fields}
    asked = dict(line.split(": ", 1) for line in request_lines[1:])
    request_body = request_body.removesuffix(b"\n")
    if asked.get("content-type") == GRPC:
        request_body = _grpc_messages(request_body)
    method, url = request_lines[0].split(" ")
    where = urlsplit(url)
    if fields.get("last-line") == "open":
        response_body = response_body.rstrip(b"\n")
    return Capture(
        name=path.stem,
        title=about["title"],
        method=method,
        host=where.netloc,
        target=f"{where.path}?{where.query}" if where.query else where.path,
        request_body=request_body,
        status=int(response_lines[0]),
        content_type=fields.get("content-type", ""),
        headers=fields,
        trailer=trailer,
        response_body=_framed(response_body, fields),
        expected=tuple(json.loads(line) for line in expected.splitlines() if line),
    )


def _framed(body: bytes, fields: dict[str, str]) -> bytes:
    if fields.get("content-type") == GRPC:
        messages = _grpc_messages(body)
        return messages[: len(messages) - int(fields.get("cut", 0))]
    is_aws = fields.get("content-type") == "application/vnd.amazon.eventstream"
    if not is_aws or body.startswith(b"{"):  # a mislabelled body is written as it is
        return body.replace(b"\n", LINE_ENDS[fields.get("line-ends", "lf")])
    messages = b"".join(_aws_message(line) for line in body.splitlines())
    return messages[: len(messages) - int(fields.get("cut", 0))]


def _aws_message(line: bytes) -> bytes:
    kind, _, rest = line.partition(b" ")
    if kind == b"chunk":
        return event("chunk", b'{"bytes":"%b","p":"abcdefgh"}' % base64.b64encode(rest))
    name, _, payload = rest.partition(b" ")
    return event(name.decode(), payload, message_type=kind.decode())


def _grpc_messages(body: bytes) -> bytes:
    lines = [line.partition(b" ") for line in body.splitlines()]
    return b"".join(
        grpc_message(message(_numbered(json.loads(text))), "" if kind == b"message" else kind.decode())
        for kind, _, text in lines
    )


def _numbered(value: Any) -> Any:
    if isinstance(value, dict):
        return {int(number): _numbered(member) for number, member in value.items()}
    return [_numbered(each) for each in value] if isinstance(value, list) else value


def _head_and_body(part: bytes) -> tuple[list[str], bytes]:
    head, _, body = part.partition(b"\n\n")
    return head.decode().splitlines(), body
