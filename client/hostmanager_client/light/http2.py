"""The client side of an HTTP/2 connection with one gRPC call at a time, without IO."""

from __future__ import annotations

from hostmanager.values import dataclass

from hostmanager_client.light.hpack import Header, HeaderDecoder, HeaderError, encode_headers

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9
)  # fmt: skip
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_PRIORITY = 0x20
_REFUSED_STREAM = 7

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INITIAL_WINDOW_SIZE = 4  # a setting
_WINDOW = 0x7FFFFFFF
_DEFAULT_WINDOW = 65_535
_LARGEST_FRAME = 16_384
# A larger request would have to wait for the flow control of the daemon.
LARGEST_REQUEST = _LARGEST_FRAME - 5
LARGEST_ANSWER = 64 * 1024 * 1024  # as in channel.py
_MOST_HEADERS = 64 * 1024


class Surprise(Exception):  # noqa: N818 -- no error: the full client takes over
    """An event that only the full client handles.

    `untouched`: the daemon certainly did not process the request.
    """

    def __init__(self, what: str, *, untouched: bool = False) -> None:
        super().__init__(what)
        self.untouched = untouched


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of a call, and its message if the status is 0."""

    status: int
    text: str
    trailers: tuple[Header, ...]
    message: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class LightConnection:
    """One connection; `receive` takes bytes and returns those to send."""

    def __init__(self) -> None:
        self.ready = False  # the settings of the daemon have arrived
        self.answer: Answer | None = None
        self._received = bytearray()
        self._decoder = HeaderDecoder()
        self._stream = -1
        self._block: bytearray | None = None  # a header block that continues
        self._block_ends_stream = False
        self._headers: list[Header] = []  # of the answer, then its trailers
        self._trailers: list[Header] | None = None
        self._data = bytearray()
        self._window = 0  # received bytes that no WINDOW_UPDATE has returned

    def open(self) -> bytes:
        """Return the first bytes of a client."""
        window = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _WINDOW.to_bytes(4, "big")
        return (
            _PREFACE
            + frame(SETTINGS, 0, 0, window)
            + frame(WINDOW_UPDATE, 0, 0, (_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big"))
        )

    def request(
        self, path: str, authority: str, message: bytes, timeout: float,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> bytes:  # fmt: skip
        """Return the bytes of a call; `timeout` in s. Raises Surprise for a large request."""
        if len(message) > LARGEST_REQUEST:
            raise Surprise("the request is large", untouched=True)
        self._stream += 2
        self.answer = self._trailers = None
        self._headers = []
        self._data.clear()
        block = encode_headers([
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"hostmanager-light"),
            (b"grpc-timeout", f"{_timeout(timeout)}".encode()),
            *((key.encode(), value.encode()) for key, value in metadata),
        ])  # fmt: skip
        return frame(HEADERS, _END_HEADERS, self._stream, block) + frame(
            DATA, _END_STREAM, self._stream, b"\0" + len(message).to_bytes(4, "big") + message
        )

    def receive(self, data: bytes) -> bytes:
        """Take received bytes; raise Surprise for all that only the full client handles."""
        received = self._received
        received += data
        answers = []
        while len(received) >= 9:
            size = int.from_bytes(received[:3], "big")
            if size > _LARGEST_FRAME:
                raise Surprise("a frame is larger than permitted")
            if len(received) < 9 + size:
                break
            kind, flags = received[3], received[4]
            stream = int.from_bytes(received[5:9], "big") & _WINDOW
            payload = bytes(received[9 : 9 + size])
            del received[: 9 + size]
            answers.append(self._frame(kind, flags, stream, payload))
        return b"".join(answers)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if not self.ready and (kind != SETTINGS or flags & _ACK):
            raise Surprise("the first frame has no settings", untouched=True)
        if (self._block is not None) != (kind == CONTINUATION):
            raise Surprise("a header block is interrupted")
        if kind == SETTINGS:
            if stream or len(payload) % 6 or (flags & _ACK and payload):
                raise Surprise("the settings are malformed")
            self.ready = True
            return b"" if flags & _ACK else frame(SETTINGS, _ACK, 0)
        if kind == PING:
            if stream or len(payload) != 8:
                raise Surprise("a ping is malformed")
            return b"" if flags & _ACK else frame(PING, _ACK, 0, payload)
        if kind == GOAWAY:
            self._go_away(payload)
        elif kind == PUSH_PROMISE:
            raise Surprise("the daemon pushes an answer")
        elif stream == self._stream:
            return self._stream_frame(kind, flags, payload)
        elif kind in (DATA, HEADERS, CONTINUATION):
            raise Surprise("a frame belongs to another stream")
        return b""  # WINDOW_UPDATE, frames of earlier streams, and unknown types, which must be ignored

    def _go_away(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise Surprise("a GOAWAY is malformed")
        last = int.from_bytes(payload[:4], "big") & _WINDOW
        if self.answer is None and last < max(self._stream, 1):
            raise Surprise("the daemon ends the connection before the call", untouched=True)

    def _stream_frame(self, kind: int, flags: int, payload: bytes) -> bytes:
        if self.answer is not None:
            if kind in (DATA, HEADERS, CONTINUATION):
                raise Surprise("a frame follows the end of the answer")
            return b""
        if kind == DATA:
            return self._data_frame(flags, payload)
        if kind == HEADERS:
            self._block = bytearray(_unpadded(flags, payload, priority=bool(flags & _PRIORITY)))
            self._block_ends_stream = bool(flags & _END_STREAM)
        elif kind == CONTINUATION:
            assert self._block is not None
            self._block += payload
            if len(self._block) > _MOST_HEADERS:
                raise Surprise("the headers are long")
        elif kind == RST_STREAM:
            refused = int.from_bytes(payload, "big") == _REFUSED_STREAM
            raise Surprise("the daemon reset the call", untouched=refused)
        if kind in (HEADERS, CONTINUATION) and flags & _END_HEADERS:
            self._end_of_headers()
        return b""

    def _data_frame(self, flags: int, payload: bytes) -> bytes:
        if not self._headers or flags & _END_STREAM:
            raise Surprise("the answer has no headers or no trailers")
        self._data += _unpadded(flags, payload, priority=False)
        if len(self._data) > LARGEST_ANSWER + 5:
            raise Surprise("the answer is large")
        self._window += len(payload)
        if self._window < _WINDOW // 4:
            return b""
        size, self._window = self._window.to_bytes(4, "big"), 0
        return frame(WINDOW_UPDATE, 0, 0, size)

    def _end_of_headers(self) -> None:
        assert self._block is not None
        try:
            headers = self._decoder.decode(bytes(self._block))
        except HeaderError as error:
            raise Surprise(str(error)) from error
        self._block = None
        if not self._headers:
            self._headers = headers
            if _value(headers, b":status") != b"200":
                raise Surprise("the HTTP status is no success")
            if not _value(headers, b"content-type").startswith(b"application/grpc"):
                raise Surprise("the answer is not of gRPC")
            if not self._block_ends_stream:
                return
        if not self._block_ends_stream:
            raise Surprise("headers follow the headers")
        self._finish(headers)

    def _finish(self, trailers: list[Header]) -> None:
        status, text = _value(trailers, b"grpc-status"), _value(trailers, b"grpc-message")
        if not status.isdigit() or len(status) > 2:
            raise Surprise("the answer has no status")
        message = b""
        if status == b"0":
            size = int.from_bytes(self._data[1:5], "big")
            if len(self._data) != size + 5 or self._data[0]:
                raise Surprise("the answer is not one plain message")
            message = bytes(self._data[5:])
        self.answer = Answer(int(status), _percent_decoded(text), tuple(trailers), message)


def _unpadded(flags: int, payload: bytes, *, priority: bool) -> bytes:
    start, end = (5 if priority else 0), len(payload)
    if flags & _PADDED:
        if not payload:
            raise Surprise("a frame is malformed")
        start += 1
        end -= payload[0]
    if start > end:
        raise Surprise("a frame is malformed")
    return payload[start:end]


def _value(headers: list[Header], name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def _percent_decoded(text: bytes) -> str:
    first, *rest = text.split(b"%")
    result = bytearray(first)
    for part in rest:
        try:
            result += bytes.fromhex(part[:2].decode("ascii")) + part[2:]
        except ValueError:
            result += b"%" + part
    return result.decode("utf-8", "replace")


def _timeout(seconds: float) -> str:
    """Return a timeout in the notation of gRPC, which has at most eight digits."""
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 100_000_000 else f"{milliseconds // 1000}S"
