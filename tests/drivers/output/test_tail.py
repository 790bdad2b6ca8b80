"""Readers of output: the last lines, then new lines, over rotation, truncation and removal."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.lines import LONGEST_LINE, LineAssembler, LogLine, start_of_last
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.output.wanted_lines import WantedLines
from hypothesis import given
from hypothesis import strategies as st

DEADLINE = 30.0
LINES = 100_000
WRITER = (
    "import os\nfor i in range(0, {0}, 5): os.write(1, b''.join(b'line %d\\n' % j for j in range(i, i + 5)))"
)
SMALL = LogPolicy(size=64 * 1024, keep=1000)


@pytest.fixture(params=["disk", "memory"])
def outputs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutputFiles]:
    """Create output files on disk or on tmpfs."""
    directory = tmp_path
    if request.param == "memory":
        if not os.access("/dev/shm", os.W_OK):
            pytest.skip("no tmpfs at /dev/shm")
        directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    files = OutputFiles(directory)
    yield files
    files.close()
    shutil.rmtree(directory)


class Follower:
    """A reader with `follow`, and the lines that it got so far."""

    def __init__(self, outputs: OutputFiles, policy: LogPolicy = SMALL, lines: int = 100) -> None:
        self.lines: list[LogLine] = []
        self._batches = outputs.read("a", policy, WantedLines(lines, follow=True))

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.lines += await anext(self._batches)

    async def close(self) -> None:
        await self._batches.aclose()


def write(outputs: OutputFiles, data: bytes, policy: LogPolicy = SMALL) -> None:
    with os.fdopen(outputs.open_for_append("a", policy), "wb") as file:
        file.write(data)


async def last_lines(outputs: OutputFiles, lines: int, policy: LogPolicy = SMALL) -> list[LogLine]:
    found: list[LogLine] = []
    async for batch in outputs.read("a", policy, WantedLines(lines)):
        assert len(batch) <= 500
        found += batch
    return found


async def wait_for_archive(outputs: OutputFiles, archives: int = 1) -> None:
    live = outputs.path("a", SMALL)
    async with asyncio.timeout(DEADLINE):
        while not live.with_name(f"{live.name}.{archives}").exists():  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.02)


def numbered(start: int, stop: int) -> list[str]:
    return [f"line {number}" for number in range(start, stop)]


def as_bytes(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def test_the_last_lines_come_from_archives_too(outputs: OutputFiles) -> None:
    async def run() -> None:
        write(outputs, as_bytes(numbered(0, 30_000)))
        await wait_for_archive(outputs, 3)
        for count in (0, 1, 100, 20_000, 30_000, 99_999):
            found = await last_lines(outputs, count)
            assert [line.text for line in found] == numbered(max(0, 30_000 - count), 30_000)

    asyncio.run(run())


def test_an_earlier_daemons_archives_are_read(outputs: OutputFiles) -> None:
    async def run() -> None:
        write(outputs, as_bytes(numbered(0, 30_000)))
        await wait_for_archive(outputs, 3)
        outputs.close()
        later = OutputFiles(outputs.path("a", SMALL).parent)
        assert [line.text for line in await last_lines(later, 25_000)] == numbered(5_000, 30_000)

    asyncio.run(run())


def test_a_follower_gets_every_line_once_across_rotations(outputs: OutputFiles) -> None:
    async def run() -> None:
        write(outputs, b"first\n")
        follower = Follower(outputs)
        await follower.until(lambda: follower.texts == ["first"])
        fd = outputs.open_for_append("a", SMALL)
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER.format(LINES), stdout=fd)
        os.close(fd)
        await follower.until(lambda: follower.texts[-1] == f"line {LINES - 1}")
        assert follower.texts == ["first", *numbered(0, LINES)]
        await follower.close()
        assert await writer.wait() == 0
        await wait_for_archive(outputs)

    asyncio.run(run())


def test_a_slow_follower_reads_on_from_the_archives(outputs: OutputFiles) -> None:
    async def run() -> None:
        write(outputs, b"first\n")
        follower = Follower(outputs)
        await follower.until(lambda: len(follower.lines) == 1)
        write(outputs, as_bytes(numbered(0, 50_000)))
        await wait_for_archive(outputs, 8)
        await follower.until(lambda: follower.texts[-1] == "line 49999")
        assert follower.texts == ["first", *numbered(0, 50_000)]
        await follower.close()

    asyncio.run(run())


def test_a_slow_follower_gets_a_notice_of_dropped_bytes(outputs: OutputFiles) -> None:
    policy = LogPolicy(size=64 * 1024, keep=1)

    async def run() -> None:
        write(outputs, b"first\n", policy)
        follower = Follower(outputs, policy)
        await follower.until(lambda: len(follower.lines) == 1)
        data = as_bytes(numbered(0, 50_000))
        write(outputs, data, policy)
        await wait_for_archive(outputs)
        await follower.until(lambda: follower.texts[-1] == "line 49999")
        marker = follower.texts[1]
        assert marker.startswith("[hostmanager: ")
        skipped = int(marker.split()[1])
        assert follower.texts[2:] == data[skipped:].decode().splitlines()
        await follower.close()

    asyncio.run(run())


def test_a_follower_waits_for_a_missing_file(outputs: OutputFiles) -> None:
    async def run() -> None:
        follower = Follower(outputs)
        waiting = asyncio.ensure_future(follower.until(lambda: follower.texts == ["hello"]))
        await asyncio.sleep(0.05)
        write(outputs, b"hello\n")
        await waiting
        await follower.close()
        assert await last_lines(outputs, 10) == [LogLine("hello")]

    asyncio.run(run())


@pytest.mark.parametrize("change", ["truncated", "removed"])
def test_a_follower_reads_on_after_an_operator_changed_the_file(outputs: OutputFiles, change: str) -> None:
    async def run() -> None:
        live = outputs.path("a", SMALL)
        follower = Follower(outputs)
        fd = outputs.open_for_append("a", SMALL)
        os.write(fd, b"one\ntwo\n")
        await follower.until(lambda: follower.texts == ["one", "two"])
        if change == "truncated":
            os.truncate(live, 0)
        else:
            live.unlink()
        os.write(fd, b"3\n")  # by the process that still has the file open
        await follower.until(lambda: follower.texts[-1] == "3")
        os.close(fd)
        write(outputs, b"four\n")  # by the next run
        await follower.until(lambda: follower.texts[-1] == "four")
        assert follower.texts == ["one", "two", "3", "four"]
        await follower.close()

    asyncio.run(run())


def test_a_partial_line_is_shown_after_a_quiet_time_and_completed_later(outputs: OutputFiles) -> None:
    async def run() -> None:
        follower = Follower(outputs)
        write(outputs, b"login: ")
        await follower.until(lambda: follower.lines == [LogLine("login: ", continues=True)])
        write(outputs, b"me\n")
        await follower.until(lambda: follower.lines[1:] == [LogLine("me")])
        await follower.close()
        assert await last_lines(outputs, 1) == [LogLine("login: me")]
        write(outputs, b"rest")
        assert await last_lines(outputs, 1) == [LogLine("rest")]

    asyncio.run(run())


def test_long_lines_come_in_parts_and_other_encodings_are_replaced(outputs: OutputFiles) -> None:
    async def run() -> None:
        long = "ä" * 100_000
        write(outputs, long.encode() + b"\nb\xff\xfed\n")
        found = await last_lines(outputs, 2)
        assert "".join(line.text for line in found[:-1]) == long
        assert [line.continues for line in found] == [True] * (len(found) - 2) + [False, False]
        assert all(len(line.text.encode()) <= LONGEST_LINE for line in found)
        assert found[-1].text == "b\ufffd\ufffdd"

    asyncio.run(run())


def test_a_cancelled_follower_leaks_no_descriptor(outputs: OutputFiles) -> None:
    async def run() -> None:
        write(outputs, b"hello\n")
        await last_lines(outputs, 1)
        outputs.close()
        gc.collect()  # closes what other tests left open
        before = sorted(os.listdir("/proc/self/fd"))
        received = asyncio.Event()

        async def follow(batches: AsyncGenerator[list[LogLine], None]) -> None:
            async with aclosing(batches):
                async for _ in batches:
                    received.set()

        tasks = [
            asyncio.create_task(follow(outputs.read("a", SMALL, WantedLines(10, follow=True))))
            for _ in range(20)
        ]
        await received.wait()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert sorted(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


def test_without_inotify_instances_a_follower_still_gets_new_lines(
    outputs: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("hostmanager_server.drivers.output.tail.INotify", exhausted)

    async def run() -> None:
        fd = outputs.open_for_append("a", SMALL)
        os.write(fd, b"one\n")
        follower = Follower(outputs)
        await follower.until(lambda: follower.texts == ["one"])
        os.write(fd, b"two\n")
        await follower.until(lambda: follower.texts == ["one", "two"])
        os.close(fd)
        await follower.close()

    asyncio.run(run())


@given(
    st.binary(max_size=200).map(lambda data: data.replace(b"a", b"\n")),
    st.integers(0, 30),
    st.integers(1, 50),
)
def test_the_backward_search_agrees_with_splitting_all_lines(data: bytes, lines: int, block: int) -> None:
    start = start_of_last(
        lambda position, limit: data[max(0, position - limit) : position], len(data), lines, block
    )
    pieces = data.split(b"\n")
    ended = [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
    assert data[start:] == b"".join(ended[max(0, len(ended) - lines) :])


@given(
    st.lists(st.sampled_from([b"a", b"\n", "ä€😀".encode(), b"\xff", b"x" * 70_000]), max_size=12), st.data()
)
def test_lines_do_not_depend_on_the_pieces_of_input(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    assembler = LineAssembler()
    lines: list[LogLine] = []
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        lines += assembler.feed(whole[start:stop])
    lines += assembler.flush(continues=False)
    text = "".join(line.text if line.continues else f"{line.text}\n" for line in lines)
    expected = whole.decode(errors="replace")
    assert text == (expected if expected.endswith("\n") or not expected else f"{expected}\n")
