"""Peers that break HTTP/2 or speak other protocols, for the tests of the client."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

Behaviour = Callable[[socket.socket], None]

DATA, HEADERS, RST_STREAM, PING, GOAWAY = 0, 1, 3, 6, 7
END_STREAM, END_HEADERS = 1, 4
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
ACKNOWLEDGED = b"\0\0\0\x04\x01\0\0\0\0"


@contextlib.contextmanager
def peer(behave: Behaviour) -> Iterator[str]:
    """Listen on a port of loopback, call `behave` for each connection, and yield the address."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                threading.Thread(target=_treat, args=(behave, connection), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()


def _treat(behave: Behaviour, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        behave(connection)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(**fields: str) -> bytes:
    """Return a block of header fields; `status` is the pseudo field, `_` stands for a hyphen."""
    block = b""
    for name, value in fields.items():
        key = (":status" if name == "status" else name.replace("_", "-")).encode()
        text = value.encode("latin-1")
        block += b"\0" + bytes([len(key)]) + key + bytes([len(text)]) + text
    return block


def says(data: bytes) -> Behaviour:
    """Send the bytes and keep the connection open."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(data)
        silent(connection)

    return behave


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def read(connection: socket.socket, size: int) -> bytes:
    """Return `size` bytes; fewer at the end of the connection."""
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


def closes(connection: socket.socket) -> None:
    connection.close()


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def after_the_request(then: Behaviour) -> Behaviour:
    """Behave as `then` after the first request."""
    return _with_requests(lambda connection, _: then(connection))


def answers(*frames: Callable[[int], bytes]) -> Behaviour:
    """Answer each request with frames for the number of its stream."""
    return _with_requests(lambda connection, stream: connection.sendall(b"".join(f(stream) for f in frames)))


def _with_requests(answer: Callable[[socket.socket, int], None]) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(SETTINGS + ACKNOWLEDGED)
        read(connection, 24)  # the preface
        while head := read(connection, 9):
            length, kind, (stream,) = int.from_bytes(head[:3]), head[3], struct.unpack(">I", head[5:])
            payload = read(connection, length)
            if kind == DATA:
                answer(connection, stream)
            elif kind == PING and not head[4]:
                connection.sendall(frame(PING, 1, 0, payload))

    return behave


def resets_the_stream(code: int) -> Behaviour:
    return answers(lambda stream: frame(RST_STREAM, 0, stream, struct.pack(">I", code)))


def goes_away(code: int, text: bytes = b"") -> Behaviour:
    return answers(lambda _: frame(GOAWAY, 0, 0, struct.pack(">II", 0, code) + text))


def answers_http(status: int) -> Behaviour:
    block = headers(status=str(status), content_type="text/html")
    return answers(lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, block))


def answers_grpc(message: bytes, trailers: bytes = b"") -> Behaviour:
    """Answer with a message in wire format, and end the stream if there are `trailers`."""
    block = headers(status="200", content_type="application/grpc")

    def answer(stream: int) -> bytes:
        begin = frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 0, stream, message)
        end = frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers) if trailers else b""
        return begin + end

    return answers(answer)
