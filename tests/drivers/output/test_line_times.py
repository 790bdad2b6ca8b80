"""Times of output lines: the index beside the file, and reading by time and by run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.last_output import mark_end
from hostmanager_server.drivers.output.line_times import (
    MOST_RECORDS,
    RECORD,
    Kind,
    Moment,
    TimeTable,
    compact,
    parse,
)
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.drivers.output.wanted_lines import NoSuchRunError, WantedLines

BLOCK = 64 * 1024
ALL = 100_000


class Agent:
    """A process that writes to an output file, a daemon that looks at times of its own choice."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "a.log"
        self.index = directory / "a.log.times"
        self.outputs = OutputFiles(directory)
        self.stream = self.outputs._stream("a", LogPolicy())  # the readers' stream, without a rotation thread

    def start(self, now: float) -> None:
        fd = self.stream.open_for_append()
        self.stream.add_run(mark_end(self.stream, fd), now)
        os.close(fd)

    def write(self, *lines: str, now: float | None = None) -> None:
        """Write lines, and let the daemon look at a time."""
        with self.path.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        if now is not None:
            self.stream.observe(now)

    def next_life(self) -> None:
        """Let another daemon continue."""
        self.outputs.close()
        self.outputs = OutputFiles(self.path.parent)
        self.stream = self.outputs._stream("a", LogPolicy())

    async def read(
        self, *, lines: int = ALL, since: float | None = None, until: float | None = None, runs_back: int = 0
    ) -> list[tuple[str, float]]:
        wanted = WantedLines(lines, False, since, until, runs_back)
        batches = self.outputs.read("a", LogPolicy(), wanted)
        return [(line.text, line.time) async for batch in batches for line in batch]

    async def texts(self, **wanted: float) -> list[str]:
        return [text for text, _ in await self.read(**wanted)]  # type: ignore[arg-type]  # the test chooses


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.outputs.close()


# --- the table


def table(*moments: tuple[int, float] | tuple[int, float, bool]) -> TimeTable:
    return TimeTable([Moment(*moment) for moment in moments], current=True)


def test_a_line_has_the_time_of_the_first_look_after_its_end() -> None:
    times = table((0, 100.0, True), (10, 101.0), (20, 105.0))
    assert [times.time_at(position, 106.0) for position in (1, 10, 11, 20, 21)] == [101, 101, 105, 105, 106]


def test_a_line_from_before_the_index_and_a_line_from_a_long_gap_have_no_time() -> None:
    times = table((10, 100.0, True), (20, 101.0), (30, 500.0, True), (40, 501.5, True))
    assert [times.time_at(position, 0.0) for position in (5, 15, 25, 35)] == [0.0, 101.0, 0.0, 501.5]


def test_times_bound_the_positions_and_lines_of_unknown_time_count() -> None:
    times = table((0, 100.0, True), (10, 101.0), (20, 500.0, True), (30, 510.0))
    assert [times.begin_since(at) for at in (50.0, 100.5, 300.0, 505.0, 600.0)] == [None, 0, 10, 20, 30]
    ends = [times.end_until(at, 520.0) for at in (50.0, 100.5, 101.0, 505.0, 515.0, 520.0)]
    assert ends == [0, 0, 20, 20, 30, None]


def test_a_full_index_becomes_coarser_for_old_output_and_forgets_removed_bytes() -> None:
    times = table(*((n, float(n), n == 50) for n in range(100)))
    times.anchor = (7, 0)
    times.runs = [0, 40]
    again = parse(b"".join(RECORD.pack(*record) for record in compact(times, oldest=20)))
    positions = [moment.position for moment in again.moments]
    assert positions[0] == 19  # begins the lines after the oldest byte
    assert positions[-41:] == list(range(59, 100))
    assert 20 <= len(positions) < 80
    assert Moment(50, 50.0, after_gap=True) in again.moments
    assert (again.anchor, again.runs) == ((7, 0), [0, 40])


def test_bytes_that_are_no_index_give_an_empty_table() -> None:
    assert parse(b"\xff" * 100).moments == []
    assert parse(b"short").runs == []


# --- the file


async def test_lines_have_times_and_the_output_stays_untouched(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("one", "two", now=101.0)
    agent.write("three", now=105.5)
    assert await agent.read() == [("one", 101.0), ("two", 101.0), ("three", 105.5)]
    assert agent.path.read_bytes() == b"one\ntwo\nthree\n"
    assert agent.index.stat().st_size <= 6 * RECORD.size
    assert agent.index.stat().st_mode & 0o777 == 0o640


async def test_a_look_at_a_file_without_new_output_writes_nothing(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("one", now=101.0)
    size = agent.index.stat().st_size
    for now in range(102, 110):
        agent.stream.observe(float(now))
    assert agent.index.stat().st_size == size


async def test_the_next_daemon_knows_the_times_and_says_nothing_about_the_gap(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("one", now=101.0)
    agent.next_life()
    agent.write("while no daemon looked")
    agent.stream.observe(500.0)
    agent.write("two", now=501.0)
    expected = [("one", 101.0), ("while no daemon looked", 0.0), ("two", 501.0)]
    assert await agent.read() == expected
    agent.next_life()
    assert await agent.read() == expected


async def test_an_instance_that_does_not_run_has_its_times_after_a_restart_of_the_daemon(
    agent: Agent,
) -> None:
    agent.start(now=100.0)
    agent.write("one", now=101.0)
    before = agent.index.read_bytes()
    agent.next_life()
    assert await agent.read() == [("one", 101.0)]
    assert agent.index.read_bytes() == before  # reading writes nothing


async def test_times_survive_rotation_and_the_next_daemon(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("first", "x" * (3 * BLOCK), now=101.0)
    agent.write("second", "y" * (3 * BLOCK), now=102.0)
    agent.stream.rotate(BLOCK, 100)
    agent.stream.observe(103.0)
    agent.write("third", now=104.0)
    expected = {"first": 101.0, "second": 102.0, "third": 104.0}

    async def known() -> dict[str, float]:
        return {text: at for text, at in await agent.read() if text in expected}

    assert await known() == expected
    agent.next_life()
    assert await known() == expected
    agent.write("fourth", now=105.0)
    assert await known() == expected


async def test_a_daemon_that_died_while_it_moved_a_head_leaves_unknown_times(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("first", "x" * (3 * BLOCK), now=101.0)
    with agent.stream._refreshed() as directory:
        live = agent.stream._extent()
        assert directory is not None
        assert live is not None
        agent.stream._times.begin_cut(directory, live)
    agent.next_life()
    assert {at for _, at in await agent.read()} == {0.0}


@pytest.mark.parametrize("change", ["truncated", "replaced"])
async def test_a_file_that_changed_while_no_daemon_looked_has_unknown_times(
    agent: Agent, change: str
) -> None:
    agent.start(now=100.0)
    agent.write("one", "two", "three", now=101.0)
    agent.next_life()
    if change == "replaced":
        agent.path.rename(agent.path.with_name("away"))
    agent.path.write_bytes(b"new\n")
    assert await agent.read() == [("new", 0.0)]
    agent.stream.observe(200.0)
    agent.write("newer", now=201.0)
    assert await agent.read() == [("new", 0.0), ("newer", 201.0)]


async def test_an_index_that_was_removed_begins_again(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("one", now=101.0)
    agent.index.unlink()
    agent.write("two", now=102.0)
    agent.write("three", now=103.0)
    agent.write("four", now=104.0)
    assert (await agent.read())[-1] == ("four", 104.0)
    agent.next_life()
    assert (await agent.read())[-1] == ("four", 104.0)


async def test_a_link_in_place_of_the_index_is_never_followed(agent: Agent, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    agent.index.symlink_to(other)
    agent.start(now=100.0)
    agent.write("one", now=101.0)
    agent.write("two", now=102.0)
    assert other.read_bytes() == b"precious"
    assert [text for text, _ in await agent.read()] == ["one", "two"]


async def test_an_index_larger_than_any_of_ours_is_replaced(agent: Agent) -> None:
    with agent.index.open("wb") as file:
        file.truncate(10**9)
    agent.start(now=100.0)
    agent.write("one", now=101.0)
    assert agent.index.stat().st_size < 1000
    assert await agent.read() == [("one", 101.0)]


async def test_the_index_stays_bounded(agent: Agent) -> None:
    agent.start(now=100.0)
    records = [(Kind.REACHED, 100_000 + n, n + 1) for n in range(MOST_RECORDS)]
    agent.write("x" * MOST_RECORDS, now=100.5)
    with agent.index.open("ab") as file:
        file.write(b"".join(RECORD.pack(*record) for record in records))
    agent.write("last", now=200.0)
    assert agent.index.stat().st_size <= MOST_RECORDS * RECORD.size * 4 / 5
    assert (await agent.read())[-1] == ("last", 200.0)
    assert sorted(path.name for path in agent.path.parent.iterdir()) == ["a.log", "a.log.times"]


# --- reading by time and by run


async def test_lines_since_and_until_a_time(agent: Agent) -> None:
    agent.start(now=100.0)
    for second in range(1, 6):
        agent.write(f"at {second}", now=100.0 + second)
    assert await agent.texts(since=103.0) == ["at 3", "at 4", "at 5"]
    assert await agent.texts(until=102.0) == ["at 1", "at 2"]
    assert await agent.texts(since=102.0, until=104.0) == ["at 2", "at 3", "at 4"]
    assert await agent.texts(since=102.0, until=104.0, lines=1) == ["at 4"]
    assert await agent.texts(since=200.0) == []
    assert await agent.texts(until=50.0) == []


async def test_a_look_inside_a_line_does_not_cut_the_line(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("one", now=101.0)
    with agent.path.open("ab") as file:
        file.write(b"begins, ")
        file.flush()
        agent.stream.observe(102.0)
        file.write(b"ends\n")
    agent.stream.observe(103.0)
    assert await agent.read(since=102.5) == [("begins, ends", 103.0)]
    assert await agent.read(until=102.5) == [("one", 101.0)]


async def test_all_lines_count_where_no_index_exists(agent: Agent) -> None:
    agent.path.write_bytes(b"old\n")
    assert await agent.read(since=200.0) == [("old", 0.0)]
    assert await agent.read(until=200.0) == [("old", 0.0)]


async def test_the_output_of_one_run(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("first", now=101.0)
    agent.start(now=110.0)
    agent.write("second", "no line end after this", now=111.0)
    with agent.path.open("r+b") as file:
        file.truncate(agent.path.stat().st_size - 1)
    agent.start(now=120.0)
    agent.write("third", now=121.0)
    assert await agent.texts(runs_back=1) == ["third"]
    assert await agent.texts(runs_back=2) == ["second", "no line end after this"]
    assert await agent.texts(runs_back=3) == ["first"]
    assert await agent.texts(runs_back=2, lines=1) == ["no line end after this"]
    with pytest.raises(NoSuchRunError):
        await agent.texts(runs_back=4)


async def test_runs_are_known_to_the_next_daemon(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("first", now=101.0)
    agent.next_life()
    agent.start(now=110.0)
    agent.write("second", now=111.0)
    assert await agent.texts(runs_back=2) == ["first"]
    assert await agent.texts(runs_back=1) == ["second"]


async def test_a_run_without_output_is_a_run(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("first", now=101.0)
    agent.start(now=110.0)
    agent.start(now=120.0)
    agent.write("third", now=121.0)
    assert await agent.texts(runs_back=2) == []
    assert await agent.texts(runs_back=3) == ["first"]


async def test_a_reader_that_follows_gives_new_lines_a_time_at_once(agent: Agent) -> None:
    agent.start(now=100.0)
    agent.write("old", now=101.0)
    batches = agent.outputs.read("a", LogPolicy(), WantedLines(10, follow=True))
    seen = []
    async for batch in batches:
        seen += [(line.text, line.time) for line in batch]
        if not batch:  # caught up
            agent.write("new")
        if len(seen) == 2:
            break
    await batches.aclose()
    assert seen[0] == ("old", 101.0)
    assert seen[1][0] == "new"
    assert seen[1][1] > 1e9


def test_the_time_of_the_stream_needs_no_open_file(tmp_path: Path) -> None:
    assert OutputStream(tmp_path / "none.log").read_times().moments == []
