"""Lines on their way from threads to the event loop."""

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


def test_what_came_is_taken_at_once_and_in_order() -> None:
    async def play() -> None:
        box = LineBuffer()
        for text in "abc":
            box.put([line(text)])
        assert [each.text for each in await box.take()] == ["a", "b", "c"]

    asyncio.run(play())


def test_who_puts_waits_until_there_is_room() -> None:
    async def play() -> None:
        box = LineBuffer()
        box.put(HALF)
        put = threading.Thread(target=box.put, args=(HALF,))
        put.start()
        assert await box.take() == HALF  # the second half has no room yet, whoever is faster
        assert await box.take() == HALF
        await asyncio.to_thread(put.join, DEADLINE)
        assert not put.is_alive()

    asyncio.run(play())


def test_one_batch_always_fits() -> None:
    async def play() -> None:
        box = LineBuffer()
        box.put(HALF * 3)
        assert await box.take() == HALF * 3

    asyncio.run(play())


def test_who_waits_for_room_is_let_go_at_the_end() -> None:
    async def play() -> None:
        box = LineBuffer()
        box.put(HALF)
        put = threading.Thread(target=box.put, args=(HALF,))
        put.start()
        box.close()
        await asyncio.to_thread(put.join, DEADLINE)
        assert not put.is_alive()

    asyncio.run(play())


def test_an_error_comes_after_what_was_put_before() -> None:
    async def play() -> None:
        box = LineBuffer()
        box.put([line("a")])
        box.fail(LogsError("no more", lasting=True))
        assert [each.text for each in await box.take()] == ["a"]
        with pytest.raises(LogsError, match="no more"):
            await box.take()

    asyncio.run(play())


def test_a_loop_that_is_closed_takes_nothing() -> None:
    async def make() -> LineBuffer:
        return LineBuffer()

    box = asyncio.run(make())
    box.put(HALF)
    box.put(HALF)  # does not wait for ever
