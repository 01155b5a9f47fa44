"""
Server-sent events: the bytes of an event stream in any split go in, finished events come out.

Source  WHATWG HTML, "Server-sent events", parsing and interpreting an event stream. Lines end in LF, CRLF or CR, mixed
        at will; a byte order mark before the first line is skipped; a line that begins with a colon is a comment; the
        field name ends at the first colon and one space behind it is dropped; several `data` lines are joined with LF;
        an empty line dispatches; an event without a data line is nothing.
Limits  One event is at most `event_bytes_max` long, its unfinished line included.
Rules   Every byte is looked at once, whatever the split. An event that the end of the stream interrupts is handed out
        by `end`, apart from the others: the standard drops it, but some providers leave out the last empty line.
        Lines that are no field are kept, bounded, as `stray_text`: Google writes a bare JSON error between events.

Proxies read events all day, and nearly always a read brings whole events of one `data` line. So lines are split by one
call in C, and a list of lines with that shape is not walked through the state machine.
"""

from collections import deque
from dataclasses import dataclass

from services.wire.errors import WireError

# An image in base64 makes one event of several megabytes; beyond this it is no event that anyone sends on purpose.
EVENT_BYTES_MAX = 16 * 1024 * 1024

# Enough for any error object; what is stray and longer is somebody else's protocol.
STRAY_BYTES_MAX = 64 * 1024

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

LF, CR = 0x0A, 0x0D


class EventTooLarge(WireError):
    """One event is longer than the reader was told to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """
    One dispatched event.

    Attributes:
        data: The data lines, joined with LF; UTF-8 if the server keeps the rules.
        event: Its type; `message` when it names none.
        last_event_id: The id in force, which outlives the event that set it.
    """

    data: bytes
    event: str = "message"
    last_event_id: str = ""


class ServerSentEventReader:
    """
    Takes an event stream apart.

    Attributes:
        retry_ms: The reconnection time that the stream asked for last, if any.
        is_between_events: Nothing of an event or a line is held, for those who call `feed_data`.
    """

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self.retry_ms: int | None = None
        self._event_bytes_max = event_bytes_max
        # The unfinished last line, in the pieces in which it came: joining them once keeps a long line linear.
        self._line_pieces: list[bytes] = []
        self._line_bytes = 0
        self._at_start = True
        self._after_carriage_return = False
        self.is_between_events = True
        # The event under construction.
        self._data: list[bytes] = []
        self._event_bytes = 0
        self._event_type = b""
        self._last_event_id = b""
        self._stray: deque[bytes] = deque()
        self._stray_bytes = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[ServerSentEvent]:
        """
        Read the next piece of the stream.

        Returns:
            The events that it finished, in order; often none.

        Raises:
            EventTooLarge: The reader is of no use afterwards.
        """
        self.is_between_events = False
        events: list[ServerSentEvent] = []
        for line in self._finished_lines(bytes(data)):
            if line:
                self._take_field(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        return events

    def feed_data(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """As `feed`, for callers who want the data of each event and neither its type nor its id."""
        piece = data if type(data) is bytes else bytes(data)
        if self.is_between_events and piece.startswith(b"data: ") and len(piece) <= self._event_bytes_max:
            # Nearly always it is one event of one line.
            if piece.endswith(b"\r\n\r\n"):
                line = piece[6:-4]
            elif piece.endswith(b"\n\n"):
                line = piece[6:-2]
            else:
                return self._feed_lines(piece)
            if b"\n" not in line and b"\r" not in line:
                self._at_start = False
                return [line]
        return self._feed_lines(piece)

    def _feed_lines(self, piece: bytes) -> list[bytes]:
        fits = self._line_bytes + len(piece) <= self._event_bytes_max
        lines = self._finished_lines(piece)
        found: list[bytes] | None = None
        if fits and not self._data and not self._event_type:
            found = _data_of_plain_events(lines)
        if found is None:
            found = []
            for line in lines:
                if line:
                    self._take_field(line)
                elif (event := self._dispatch()) is not None:
                    found.append(event.data)
        unfinished = self._line_pieces or self._after_carriage_return or self._data or self._event_type
        self.is_between_events = not unfinished
        return found

    def end(self) -> ServerSentEvent | None:
        """
        The stream is over.

        Returns:
            The event that it left unfinished, its last line perhaps cut, or None. Only the caller can tell whether
            what is there of it is whole.
        """
        line = b"".join(self._line_pieces)
        self._line_pieces.clear()
        if self._at_start:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line:
            self._take_field(line)
        return self._dispatch()

    @property
    def stray_text(self) -> bytes:
        """The newest lines that were no field, joined with LF; an empty line where empty lines or events were."""
        return b"\n".join(self._stray).strip(b"\n")

    def _finished_lines(self, piece: bytes) -> list[bytes]:
        """Return the lines that `piece` finishes, without their ends; keep the rest."""
        if self._after_carriage_return and piece:
            # The CR has ended its line already: an LF behind it is the second half of the same line end.
            self._after_carriage_return = False
            if piece[0] == LF:
                piece = piece[1:]
        if not piece:
            return []
        lines = piece.splitlines()  # on bytes this knows LF, CR and CRLF only, which are the line ends of the standard
        last = piece[-1]
        rest = b""
        if last == CR:
            self._after_carriage_return = True
        elif last != LF:
            rest = lines.pop()
        if lines:
            if self._line_pieces:
                self._line_pieces.append(lines[0])
                lines[0] = b"".join(self._line_pieces)
                self._line_pieces.clear()
                self._line_bytes = 0
            if self._at_start:
                self._at_start = False
                lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
        if rest:
            self._line_pieces.append(rest)
            self._line_bytes += len(rest)
            self._check_size(self._event_bytes + self._line_bytes)
        return lines

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._event_bytes += len(value) + 1
            self._check_size(self._event_bytes)
            self._data.append(value)
        elif name == b"event":
            self._check_size(self._event_bytes + len(value))
            self._event_type = value
        elif name == b"id":
            if b"\0" not in value:
                self._check_size(self._event_bytes + len(value))
                self._last_event_id = value
        elif name == b"retry":
            if value.isdigit() and len(value) < 16:
                self.retry_ms = int(value)
        elif name:
            self._keep_stray(line)

    def _dispatch(self) -> ServerSentEvent | None:
        if self._stray and self._stray[-1]:
            self._stray.append(b"")
        event_type, self._event_type = self._event_type, b""
        if not self._data:
            return None
        event = ServerSentEvent(
            data=b"\n".join(self._data),
            event=event_type.decode("utf-8", "replace") or "message",
            last_event_id=self._last_event_id.decode("utf-8", "replace"),
        )
        self._data.clear()
        self._event_bytes = 0
        return event

    def _keep_stray(self, line: bytes) -> None:
        """Keep the newest stray lines: an error stands at the end of what a server says."""
        self._stray.append(line[:STRAY_BYTES_MAX])
        self._stray_bytes += len(self._stray[-1])
        while self._stray_bytes > STRAY_BYTES_MAX or len(self._stray) > STRAY_BYTES_MAX // 16:
            self._stray_bytes -= len(self._stray.popleft())

    def _check_size(self, size: int) -> None:
        if size > self._event_bytes_max:
            raise EventTooLarge(f"server-sent event of {size} bytes or more exceeds {self._event_bytes_max}")


def _data_of_plain_events(lines: list[bytes]) -> list[bytes] | None:
    """
    Return the data of `lines` if they are whole events of one plain shape, else None.

    The two shapes that providers send: a `data` line and an empty line, or an `event`, a `data` and an empty line.
    """
    if not lines:
        return None
    if lines[0][:5] == b"data:":
        period = 2
    elif lines[0][:6] == b"event:":
        period = 3
        for line in lines[::3]:
            if line[:6] != b"event:":
                return None
    else:
        return None
    if len(lines) % period or any(lines[period - 1 :: period]):
        return None
    found = []
    for line in lines[period - 2 :: period]:
        if line[:6] == b"data: ":
            found.append(line[6:])
        elif line[:5] == b"data:":
            found.append(line[5:])
        else:
            return None
    return found
