"""Tests of reading container output on a real engine.

Containers end, restart and are replaced.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.logs.demultiplexer import LogsError, OutputLine, Source
from hostmanager_server.drivers.compose.logs.reader import read_logs
from hostmanager_server.drivers.output.wanted_lines import WantedLines

from tests.docker_engine import RealEngine, unique_name

T = TypeVar("T")
Start = Callable[..., str]
DEADLINE = 60.0  # s
COUNTER_SCRIPT = "i=0; while true; do echo $0 $i; i=$((i+1)); sleep 0.05; done"
LONG_LINE_SCRIPT = "i=0; while [ $i -lt 9000 ]; do printf 0123456789; i=$((i+1)); done; echo; echo end"


def connect_to(engine: RealEngine) -> Connection:
    connection = Connection(engine.host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def start(engine: RealEngine, image: str) -> Iterator[Start]:
    """Return a function that starts a container with a shell script.

    The function returns the id of the container.

    The script's $0 is a unique name.
    """
    names: list[str] = []

    def run(script: str, *options: str) -> str:
        names.append(name := unique_name())
        return engine.docker(
            "run", "--detach", "--init", *options, "--name", name, image, "sh", "-c", script, name
        )

    yield run
    if names:
        engine.docker("rm", "--force", *names)


async def containers_of(changes: asyncio.Queue[Sequence[str]]) -> AsyncIterator[Sequence[str]]:
    """Yield the ids of a service's containers as the test puts them in."""
    while True:
        yield await changes.get()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, DEADLINE))


def ended(engine: RealEngine, container: str) -> str:
    engine.docker("wait", container)
    return container


async def last_lines(engine: RealEngine, lines: int | WantedLines, *ids: str) -> list[OutputLine]:
    changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
    changes.put_nowait(ids)
    wanted = WantedLines(lines) if isinstance(lines, int) else lines
    log = read_logs(functools.partial(connect_to, engine), containers_of(changes), wanted)
    async with aclosing(log):
        return [line async for batch in log for line in batch]


def test_the_last_lines_come_from_both_outputs(engine: RealEngine, start: Start) -> None:
    container = ended(engine, start("echo one; echo two; echo oops >&2; printf rest"))
    found = {(line.text, line.source) for line in run(last_lines(engine, 3, container))}
    assert ("rest", Source.STDOUT) in found
    assert found < {
        ("one", Source.STDOUT), ("two", Source.STDOUT), ("oops", Source.STDERR), ("rest", Source.STDOUT)
    }  # fmt: skip
    assert ("oops", Source.STDERR) in {
        (line.text, line.source) for line in run(last_lines(engine, 9, container))
    }
    assert run(last_lines(engine, 0, container)) == []


def test_a_terminal_has_one_output(engine: RealEngine, start: Start) -> None:
    container = ended(engine, start("echo one; echo two", "--tty"))
    assert [(line.text, line.source) for line in run(last_lines(engine, 1, container))] == [
        ("two", Source.COMBINED)
    ]


def test_a_very_long_line_comes_in_parts(engine: RealEngine, start: Start) -> None:
    parts = run(last_lines(engine, 100, ended(engine, start(LONG_LINE_SCRIPT))))
    assert "".join(line.text for line in parts[:-1]) == "0123456789" * 9000
    assert [line.continues for line in parts] == [True, False, False]


def test_replicas_share_the_requested_number_of_lines(engine: RealEngine, start: Start) -> None:
    ids = [ended(engine, start("echo a; echo b; echo c")) for _ in range(2)]
    assert [line.text for line in run(last_lines(engine, 4, *ids))] == ["b", "c", "b", "c"]


def test_replicas_never_exceed_the_requested_number_of_lines(engine: RealEngine, start: Start) -> None:
    ids = [ended(engine, start(f"echo {name}1; echo {name}2")) for name in "abc"]
    assert [line.text for line in run(last_lines(engine, 4, *ids))] == ["a1", "a2", "b2", "c2"]
    assert [line.text for line in run(last_lines(engine, 1, *ids))] == ["a2"]


def test_a_long_line_of_a_terminal_is_one_line(engine: RealEngine, start: Start) -> None:
    parts = run(last_lines(engine, 100, ended(engine, start(LONG_LINE_SCRIPT, "--tty"))))
    assert "".join(line.text for line in parts[:-1]) == "0123456789" * 9000
    assert parts[-1].text == "end"


def test_lines_have_the_times_of_the_engine_and_can_be_chosen_by_them(
    engine: RealEngine, start: Start
) -> None:
    container = ended(engine, start("for i in 1 2 3 4; do echo $i; sleep 0.02; done"))

    def texts(wanted: WantedLines) -> list[str]:
        return [line.text for line in run(last_lines(engine, wanted, container))]

    lines = run(last_lines(engine, 9, container))
    times = [line.time for line in lines]
    assert times == sorted(times)
    assert times[0] > 1e9
    between = [(one + two) / 2 for one, two in itertools.pairwise(times)]
    assert texts(WantedLines(9, since=between[0])) == ["2", "3", "4"]
    assert texts(WantedLines(2, since=between[0])) == ["3", "4"]
    assert texts(WantedLines(9, until=between[1])) == ["1", "2"]
    assert texts(WantedLines(1, until=between[1])) == ["2"]
    assert texts(WantedLines(9, since=between[0], until=between[2])) == ["2", "3"]
    assert texts(WantedLines(9, since=times[3] + 60)) == []


def test_the_previous_output_is_that_before_the_last_start(engine: RealEngine, start: Start) -> None:
    container = start("echo hello; sleep 1000")
    wanted = WantedLines(9, runs_back=2)
    assert run(last_lines(engine, wanted, container)) == []
    engine.docker("restart", "--time", "0", container)
    assert [line.text for line in run(last_lines(engine, wanted, container))] == ["hello"]
    engine.docker("kill", container)
    engine.docker("wait", container)
    # Nothing runs: the latest run is the one that has ended.
    assert [line.text for line in run(last_lines(engine, WantedLines(9, runs_back=1), container))] == [
        "hello"
    ]
    assert len(run(last_lines(engine, 9, container))) == 2


def test_a_removed_container_has_no_output(engine: RealEngine) -> None:
    assert run(last_lines(engine, 10, "0" * 64)) == []


def test_a_follower_gets_every_line_once_across_restart_and_replacement(
    engine: RealEngine, start: Start
) -> None:
    first = start(COUNTER_SCRIPT)
    threads = threading.active_count()
    lines_read: list[list[str]] = []  # name and number of each line

    def of_first() -> list[list[str]]:
        return [line for line in lines_read if line[0] == lines_read[0][0]]

    def of_second() -> list[str]:
        return [number for name, number in lines_read if name != lines_read[0][0]]

    def written() -> list[list[str]]:
        return [line.split() for line in engine.docker("logs", first).splitlines()]

    async def follow() -> None:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait([first])
        log = read_logs(
            functools.partial(connect_to, engine), containers_of(changes), WantedLines(2, follow=True)
        )

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():
                lines_read.extend(line.text.split() for line in await anext(log))

        async with aclosing(log):
            await until(lambda: len(lines_read) >= 5)
            await asyncio.to_thread(engine.docker, "kill", first)
            await asyncio.to_thread(engine.docker, "start", first)  # the same container counts from 0 again
            changes.put_nowait([first])
            begun = len(lines_read)
            await until(lambda: len(lines_read) >= begun + 5)
            second = await asyncio.to_thread(start, COUNTER_SCRIPT)
            await asyncio.to_thread(engine.docker, "kill", first)
            changes.put_nowait([second])
            end = (await asyncio.to_thread(written))[-1]
            await until(lambda: "3" in of_second() and of_first()[-1] == end)

    run(follow())
    mine, all_of_it = of_first(), written()
    assert mine == all_of_it[all_of_it.index(mine[0]) :], "each line once, in order, to the last"
    assert [lines_read[0][0], "0"] in mine
    assert of_second()[:4] == ["0", "1", "2", "3"]
    assert not [t for t in threading.enumerate() if t.name == "hm-logs"]
    assert threading.active_count() <= threads


TWO_RUNS_SCRIPT = "if [ -e /tmp/been ]; then echo two; else touch /tmp/been; echo one; fi; printf rest"


@pytest.mark.parametrize(("lines", "expected"), [(10, ["one", "rest", "two", "rest"]), (0, ["two", "rest"])])
def test_a_partial_line_is_not_joined_with_the_next_run(
    engine: RealEngine, start: Start, lines: int, expected: list[str]
) -> None:
    container = ended(engine, start(TWO_RUNS_SCRIPT))
    first, second = threading.Event(), threading.Event()

    def connect() -> Connection:
        """Once for what there is, and then to follow it."""
        (second if first.is_set() else first).set()
        return connect_to(engine)

    async def follow() -> list[str]:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait([container])
        lines_read: list[str] = []

        async def collect() -> None:
            async with aclosing(
                read_logs(connect, containers_of(changes), WantedLines(lines, follow=True))
            ) as log:
                while len(lines_read) < len(expected):
                    lines_read.extend(line.text for line in await anext(log))

        collecting = asyncio.create_task(collect())
        assert await asyncio.to_thread(second.wait, DEADLINE)
        await asyncio.to_thread(engine.docker, "start", container)
        await asyncio.to_thread(engine.docker, "wait", container)
        changes.put_nowait([container])
        await collecting
        return lines_read

    assert run(follow()) == expected


def test_a_follower_outlives_the_removal_of_each_container(engine: RealEngine, start: Start) -> None:
    lines_read: list[str] = []

    async def follow() -> None:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait([])

        async def collect(log: AsyncIterator[list[OutputLine]]) -> None:
            async for batch in log:
                lines_read.extend(line.text.split()[1] for line in batch)

        async def announce(container: str) -> None:
            while True:
                changes.put_nowait([container])
                await asyncio.sleep(0.01)

        log = read_logs(
            functools.partial(connect_to, engine), containers_of(changes), WantedLines(10, follow=True)
        )
        collecting = asyncio.create_task(collect(log))
        for _ in range(3):
            container = await asyncio.to_thread(start, COUNTER_SCRIPT)
            announcing = asyncio.create_task(announce(container))
            read = len(lines_read)
            while len(lines_read) < read + 5:
                if collecting.done():
                    await collecting  # raises its error
                await asyncio.sleep(0.01)
            await asyncio.to_thread(engine.docker, "rm", "--force", container)
            announcing.cancel()
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        await log.aclose()

    run(follow())
    begins = [index for index, text in enumerate(lines_read) if text == "0"]
    assert len(begins) == 3
    for begin, end in itertools.pairwise([*begins, len(lines_read)]):
        assert lines_read[begin:end] == [str(number) for number in range(end - begin)]


def test_an_unreadable_log_driver_is_a_lasting_error(engine: RealEngine, start: Start) -> None:
    container = start("echo one", "--log-driver", "none")
    with pytest.raises(LogsError, match="does not support reading") as caught:
        run(last_lines(engine, 10, container))
    assert caught.value.lasting


def test_a_missing_engine_is_no_lasting_error() -> None:
    def connect_to_missing_engine() -> Connection:
        connection = Connection("unix:///nonexistent/docker.sock")
        connection.negotiate(1.0)
        return connection

    async def read() -> None:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait(["0" * 64])
        async with aclosing(
            read_logs(connect_to_missing_engine, containers_of(changes), WantedLines(1))
        ) as log:
            await anext(log)

    with pytest.raises(LogsError, match="cannot find a Docker Engine") as caught:
        run(read())
    assert not caught.value.lasting
