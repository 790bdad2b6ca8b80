"""The protocol of one call, without IO."""

from __future__ import annotations

import pytest
from hostmanager_client.light.hpack import encode_headers
from hostmanager_client.light.http2 import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    LARGEST_REQUEST,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    LightConnection,
    Surprise,
    frame,
)
from hypothesis import given
from hypothesis import strategies as st

READY = frame(SETTINGS, 0, 0)
HEAD = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
TAIL = encode_headers([(b"grpc-status", b"0")])
MESSAGE = frame(DATA, 0, 1, b"\0\0\0\0\x02ab")
ANSWER = frame(HEADERS, 4, 1, HEAD) + MESSAGE + frame(HEADERS, 5, 1, TAIL)


def called() -> LightConnection:
    """Return a connection with a call that the daemon has received."""
    connection = LightConnection()
    connection.open()
    connection.receive(READY)
    connection.request("/s/M", "a", b"", 1.0)
    return connection


@given(st.lists(st.integers(1, 30), max_size=20))
def test_an_answer_may_arrive_in_any_pieces(sizes: list[int]) -> None:
    connection = called()
    rest = frame(PING, 0, 0, b"12345678") + frame(0x42, 0, 0, b"unknown") + ANSWER
    sent = b""
    for size in [*sizes, len(rest)]:
        sent += connection.receive(rest[:size])
        rest = rest[size:]
    assert connection.answer is not None
    assert (connection.answer.status, connection.answer.message) == (0, b"ab")
    assert sent == frame(PING, 1, 0, b"12345678")


def test_headers_may_continue_and_frames_be_padded() -> None:
    connection = called()
    connection.receive(
        frame(HEADERS, 0x28, 1, b"\x02" + bytes(5) + HEAD[:9] + bytes(2))
        + frame(CONTINUATION, 4, 1, HEAD[9:])
        + frame(DATA, 8, 1, b"\x01\0\0\0\0\x00\x00")
        + frame(HEADERS, 5, 1, TAIL)
    )
    assert connection.answer is not None
    assert connection.answer.message == b""


def test_a_status_without_a_message_has_its_text() -> None:
    connection = called()
    fields = [(b"grpc-status", b"5"), (b"grpc-message", b"no %C3%A4 %zz")]
    connection.receive(frame(HEADERS, 5, 1, HEAD + encode_headers(fields)))
    assert connection.answer is not None
    assert (connection.answer.status, connection.answer.text) == (5, "no ä %zz")


def test_a_second_call_follows_on_the_same_connection() -> None:
    connection = called()
    connection.receive(ANSWER)
    connection.request("/s/M", "a", b"", 1.0)
    assert connection.answer is None
    connection.receive(frame(RST_STREAM, 0, 1, bytes(4)))  # belongs to the first call
    connection.receive(ANSWER.replace(b"\0\0\0\x01", b"\0\0\0\x03"))
    assert connection.answer is not None


@pytest.mark.parametrize(
    ("received", "untouched"),
    [
        (frame(RST_STREAM, 0, 1, (7).to_bytes(4, "big")), True),
        (frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")), False),
        (frame(GOAWAY, 0, 0, bytes(8)), True),
        (frame(PUSH_PROMISE, 4, 1), False),
        (frame(DATA, 0, 1), False),  # before the headers
        (frame(DATA, 0, 3), False),  # of no stream
        (frame(HEADERS, 4, 1, HEAD) + frame(DATA, 1, 1), False),  # no trailers
        (frame(HEADERS, 4, 1, HEAD) + frame(HEADERS, 4, 1, HEAD), False),
        (frame(HEADERS, 5, 1, HEAD), False),  # no status
        (frame(HEADERS, 5, 1, HEAD + TAIL), False),  # no message
        (frame(HEADERS, 4, 1, HEAD) + frame(DATA, 0, 1, b"\1\0\0\0\0") + frame(HEADERS, 5, 1, TAIL), False),
        (frame(HEADERS, 4, 1, HEAD) + MESSAGE + MESSAGE + frame(HEADERS, 5, 1, TAIL), False),
        (frame(HEADERS, 5, 1, encode_headers([(b":status", b"503")])), False),
        (
            frame(HEADERS, 5, 1, encode_headers([(b":status", b"200"), (b"content-type", b"text")])),
            False,
        ),
        (frame(HEADERS, 0, 1, HEAD) + frame(PING, 0, 0, bytes(8)), False),
        (frame(HEADERS, 4, 1, b"\x80"), False),
        (frame(HEADERS, 8, 1, b""), False),
        (frame(SETTINGS, 0, 0, b"odd"), False),
        (b"\x7f\xff\xff" + bytes(6), False),  # a huge frame
    ],
    ids=range(19),
)
def test_a_surprise_leaves_the_call_to_the_full_client(received: bytes, *, untouched: bool) -> None:
    with pytest.raises(Surprise) as caught:
        called().receive(received)
    assert caught.value.untouched == untouched


def test_a_shutdown_after_the_call_lets_it_finish() -> None:
    connection = called()
    connection.receive(frame(GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4)) + ANSWER)
    assert connection.answer is not None


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(PING, 0, 0, bytes(8))])
def test_another_server_is_recognised_before_the_call(first: bytes) -> None:
    connection = LightConnection()
    with pytest.raises(Surprise):
        connection.receive(first)
    assert not connection.ready


def test_a_large_request_is_left_to_the_full_client() -> None:
    with pytest.raises(Surprise) as caught:
        called().request("/s/M", "a", bytes(LARGEST_REQUEST + 1), 1.0)
    assert caught.value.untouched


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_is_a_surprise_or_no_answer(pieces: list[bytes]) -> None:
    connection = called()
    try:
        for piece in pieces:
            connection.receive(piece)
    except Surprise:
        return
    assert connection.answer is None


@given(st.binary(max_size=60), st.integers(0, len(ANSWER)))
def test_garbage_within_an_answer_is_a_surprise_or_an_answer(garbage: bytes, where: int) -> None:
    connection = called()
    try:
        connection.receive(ANSWER[:where] + garbage + ANSWER[where:])
    except Surprise:
        return
