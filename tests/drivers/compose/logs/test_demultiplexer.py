"""Tests of the parser for the engine's log streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from hostmanager_server.drivers.compose.logs.demultiplexer import (
    Demultiplexer,
    LineSplitter,
    LogMessage,
    OutputLine,
    Source,
)
from hypothesis import given
from hypothesis import strategies as st

STAMP = b"2026-11-23T06:57:32.927271977Z "
AT = "2026-11-23T06:57:32.927271977Z"


def messages(pieces: Iterable[bytes], *, tty: bool) -> Iterator[LogMessage]:
    stream = Demultiplexer(tty=tty)
    for piece in pieces:
        yield from stream.feed(piece)


def frame(data: bytes, stream: int = 1) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


@given(
    lines=st.lists(st.tuples(st.sampled_from((1, 2)), st.binary(max_size=40)), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_messages_are_the_same_however_the_stream_is_cut(
    lines: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(frame(STAMP + data, number) for number, data in lines)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    expected = [LogMessage(AT, Source.STDOUT if n == 1 else Source.STDERR, data) for n, data in lines]
    assert list(messages(pieces, tty=False)) == expected


def test_an_incomplete_message_at_the_end_is_dropped() -> None:
    whole = frame(STAMP + b"one\n")
    assert [m.data for m in messages([whole, frame(STAMP + b"two\n")[:-1]], tty=False)] == [b"one\n"]


def test_a_terminal_has_one_stream_of_lines() -> None:
    pieces = [STAMP + b"one\r\n" + STAMP, b"two\r\n"]
    found = list(messages(pieces, tty=True))
    assert [(m.at, m.source, m.data) for m in found] == [
        (AT, Source.COMBINED, b"one\r\n"), (AT, Source.COMBINED, b"two\r\n")
    ]  # fmt: skip
    lines = LineSplitter()
    assert [line.text for m in found for line in lines.feed(m)] == ["one", "two"]


def test_a_long_line_of_a_terminal_has_its_time_once() -> None:
    other = b"2026-11-23T06:57:33.000000000Z "
    pieces = [
        STAMP + b"a" * 16384 + STAMP[:7],
        STAMP[7:] + b"b" * 16384 + STAMP + b"c\r\n" + other + b"d\r\n",
    ]
    found = list(messages(pieces, tty=True))
    assert [m.data for m in found] == [b"a" * 16384 + b"b" * 16384 + b"c\r\n", b"d\r\n"]
    assert found[0].at == AT


def test_an_endless_line_of_a_terminal_is_emitted_in_parts() -> None:
    stream = Demultiplexer(tty=True)
    found = [m for _ in range(100) for m in stream.feed(STAMP + b"x" * 16384)]
    assert sum(len(m.data) for m in found) > 90 * 16384
    assert {m.at for m in found} == {AT, ""}
    assert b"2026" not in b"".join(m.data for m in found)
    last = stream.feed(b"\r\n" + STAMP + b"y\r\n")
    assert [m.data[-3:] for m in last] == [b"x\r\n", b"y\r\n"]


def test_times_are_ordered_as_text_when_digits_are_missing() -> None:
    stamps = (b"2026-11-23T06:57:32Z ", b"2026-11-23T06:57:32.1Z ", b"2026-11-23T06:57:32.100000001Z ")
    found = [m.at for m in messages([frame(stamp + b"x\n") for stamp in stamps], tty=False)]
    assert found == sorted(found)
    assert {len(at) for at in found} == {len(AT)}


def test_parts_of_a_long_line_are_joined_and_outputs_stay_apart() -> None:
    lines = LineSplitter()
    feed = [(Source.STDOUT, b"long "), (Source.STDERR, b"oops\n"), (Source.STDOUT, b"line\nrest")]
    found = [line for source, data in feed for line in lines.feed(LogMessage(AT, source, data))]
    assert found == [
        OutputLine("oops", False, Source.STDERR), OutputLine("long line", False, Source.STDOUT)
    ]  # fmt: skip
    assert lines.flush() == [OutputLine("rest", False, Source.STDOUT)]
