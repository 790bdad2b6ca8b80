"""Tests of the line buffer between threads and the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hostmanager_server.drivers.compose.logs.demultiplexer import LogsError, OutputLine, Source
from hostmanager_server.drivers.compose.logs.line_buffer import CAPACITY, LineBuffer

DEADLINE = 60.0  # s


def line(text: str) -> OutputLine:
    return OutputLine(text, False, Source.STDOUT)


HALF = [line("x" * (CAPACITY // 2))]  # and its line end


async def test_take_returns_all_buffered_lines_in_order() -> None:
    buffer = LineBuffer()
    for text in "abc":
        buffer.put([line(text)])
    assert [each.text for each in await buffer.take()] == ["a", "b", "c"]


async def test_put_waits_until_there_is_room() -> None:
    buffer = LineBuffer()
    buffer.put(HALF)
    put = threading.Thread(target=buffer.put, args=(HALF,))
    put.start()
    assert await buffer.take() == HALF  # the second half has no room until now
    assert await buffer.take() == HALF
    await asyncio.to_thread(put.join, DEADLINE)
    assert not put.is_alive()


async def test_one_batch_always_fits() -> None:
    buffer = LineBuffer()
    buffer.put(HALF * 3)
    assert await buffer.take() == HALF * 3


async def test_close_releases_a_waiting_put() -> None:
    buffer = LineBuffer()
    buffer.put(HALF)
    put = threading.Thread(target=buffer.put, args=(HALF,))
    put.start()
    buffer.close()
    await asyncio.to_thread(put.join, DEADLINE)
    assert not put.is_alive()


async def test_an_error_comes_after_the_buffered_lines() -> None:
    buffer = LineBuffer()
    buffer.put([line("a")])
    buffer.fail(LogsError("no more", lasting=True))
    assert [each.text for each in await buffer.take()] == ["a"]
    with pytest.raises(LogsError, match="no more"):
        await buffer.take()


def test_put_does_not_wait_for_a_closed_loop() -> None:
    async def make() -> LineBuffer:
        return LineBuffer()

    buffer = asyncio.run(make())
    buffer.put(HALF)
    buffer.put(HALF)  # returns, although the buffer is full
