"""Reading the output of containers of a real engine, over their ends and returns."""

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

from tests.docker_engine import DockerEngine, unique_name

T = TypeVar("T")
Start = Callable[..., str]
DEADLINE = 60.0  # s
COUNTS = "i=0; while true; do echo $0 $i; i=$((i+1)); sleep 0.05; done"
LONG = "i=0; while [ $i -lt 9000 ]; do printf 0123456789; i=$((i+1)); done; echo; echo end"


def connect_to(engine: DockerEngine) -> Connection:
    connection = Connection(engine.host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def start(engine: DockerEngine, image: str) -> Iterator[Start]:
    """Starts a container with a shell script, whose $0 is a name of its own; its id."""
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
    """The ids of a service's containers, as a test puts them in."""
    while True:
        yield await changes.get()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, DEADLINE))


def ended(engine: DockerEngine, container: str) -> str:
    engine.docker("wait", container)
    return container


async def last(engine: DockerEngine, lines: int, *ids: str) -> list[OutputLine]:
    changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
    changes.put_nowait(ids)
    log = read_logs(functools.partial(connect_to, engine), containers_of(changes), lines, follow=False)
    async with aclosing(log):
        return [line async for batch in log for line in batch]


def test_the_last_lines_of_both_outputs(engine: DockerEngine, start: Start) -> None:
    container = ended(engine, start("echo one; echo two; echo oops >&2; printf rest"))
    found = {(line.text, line.source) for line in run(last(engine, 3, container))}
    assert ("rest", Source.STDOUT) in found
    assert found < {
        ("one", Source.STDOUT), ("two", Source.STDOUT), ("oops", Source.STDERR), ("rest", Source.STDOUT)
    }  # fmt: skip
    assert ("oops", Source.STDERR) in {(line.text, line.source) for line in run(last(engine, 9, container))}
    assert run(last(engine, 0, container)) == []


def test_a_terminal_has_one_output(engine: DockerEngine, start: Start) -> None:
    container = ended(engine, start("echo one; echo two", "--tty"))
    assert [(line.text, line.source) for line in run(last(engine, 1, container))] == [
        ("two", Source.COMBINED)
    ]


def test_a_line_that_is_too_long_comes_in_parts(engine: DockerEngine, start: Start) -> None:
    parts = run(last(engine, 100, ended(engine, start(LONG))))
    assert "".join(line.text for line in parts[:-1]) == "0123456789" * 9000
    assert [line.continues for line in parts] == [True, False, False]


def test_replicas_share_the_lines_that_were_asked_for(engine: DockerEngine, start: Start) -> None:
    ids = [ended(engine, start("echo a; echo b; echo c")) for _ in range(2)]
    assert [line.text for line in run(last(engine, 4, *ids))] == ["b", "c", "b", "c"]


def test_replicas_never_give_more_lines_than_were_asked_for(engine: DockerEngine, start: Start) -> None:
    ids = [ended(engine, start(f"echo {name}1; echo {name}2")) for name in "abc"]
    assert [line.text for line in run(last(engine, 4, *ids))] == ["a1", "a2", "b2", "c2"]
    assert [line.text for line in run(last(engine, 1, *ids))] == ["a2"]


def test_a_long_line_of_a_terminal_is_one_line(engine: DockerEngine, start: Start) -> None:
    parts = run(last(engine, 100, ended(engine, start(LONG, "--tty"))))
    assert "".join(line.text for line in parts[:-1]) == "0123456789" * 9000
    assert parts[-1].text == "end"


def test_a_container_that_is_gone_has_written_nothing(engine: DockerEngine) -> None:
    assert run(last(engine, 10, "0" * 64)) == []


def test_a_follower_misses_and_repeats_nothing_over_a_restart_and_a_successor(
    engine: DockerEngine, start: Start
) -> None:
    first = start(COUNTS)
    threads = threading.active_count()
    texts: list[list[str]] = []  # name and number of each line

    def of_first() -> list[list[str]]:
        return [line for line in texts if line[0] == texts[0][0]]

    def of_second() -> list[str]:
        return [number for name, number in texts if name != texts[0][0]]

    def written() -> list[list[str]]:
        return [line.split() for line in engine.docker("logs", first).splitlines()]

    async def follow() -> None:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait([first])
        log = read_logs(functools.partial(connect_to, engine), containers_of(changes), 2, follow=True)

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():
                texts.extend(line.text.split() for line in await anext(log))

        async with aclosing(log):
            await until(lambda: len(texts) >= 5)
            await asyncio.to_thread(engine.docker, "kill", first)
            await asyncio.to_thread(engine.docker, "start", first)  # the same container, from 0 again
            changes.put_nowait([first])
            begun = len(texts)
            await until(lambda: len(texts) >= begun + 5)
            second = await asyncio.to_thread(start, COUNTS)
            await asyncio.to_thread(engine.docker, "kill", first)
            changes.put_nowait([second])
            end = (await asyncio.to_thread(written))[-1]
            await until(lambda: "3" in of_second() and of_first()[-1] == end)

    run(follow())
    mine, all_of_it = of_first(), written()
    assert mine == all_of_it[all_of_it.index(mine[0]) :], "each line once, in order, to its end"
    assert [texts[0][0], "0"] in mine
    assert of_second()[:4] == ["0", "1", "2", "3"]
    assert not [t for t in threading.enumerate() if t.name == "hm-logs"]
    assert threading.active_count() <= threads


AGAIN = "if [ -e /tmp/been ]; then echo two; else touch /tmp/been; echo one; fi; printf rest"


@pytest.mark.parametrize(("lines", "expected"), [(10, ["one", "rest", "two", "rest"]), (0, ["two", "rest"])])
def test_a_line_that_did_not_end_is_not_mixed_with_that_of_the_next_run(
    engine: DockerEngine, start: Start, lines: int, expected: list[str]
) -> None:
    container = ended(engine, start(AGAIN))
    first, second = threading.Event(), threading.Event()

    def connect() -> Connection:
        """Once for what there is, and then to follow it."""
        (second if first.is_set() else first).set()
        return connect_to(engine)

    async def follow() -> list[str]:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait([container])
        texts: list[str] = []

        async def collect() -> None:
            async with aclosing(read_logs(connect, containers_of(changes), lines, follow=True)) as log:
                while len(texts) < len(expected):
                    texts.extend(line.text for line in await anext(log))

        collecting = asyncio.create_task(collect())
        assert await asyncio.to_thread(second.wait, DEADLINE)
        await asyncio.to_thread(engine.docker, "start", container)
        await asyncio.to_thread(engine.docker, "wait", container)
        changes.put_nowait([container])
        await collecting
        return texts

    assert run(follow()) == expected


def test_a_follower_outlives_the_removal_of_each_container(engine: DockerEngine, start: Start) -> None:
    texts: list[str] = []

    async def follow() -> None:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait([])

        async def collect(log: AsyncIterator[list[OutputLine]]) -> None:
            async for batch in log:
                texts.extend(line.text.split()[1] for line in batch)

        async def look_at(container: str) -> None:
            while True:
                changes.put_nowait([container])
                await asyncio.sleep(0.01)

        log = read_logs(functools.partial(connect_to, engine), containers_of(changes), 10, follow=True)
        collecting = asyncio.create_task(collect(log))
        for _ in range(3):
            container = await asyncio.to_thread(start, COUNTS)
            looking = asyncio.create_task(look_at(container))
            read = len(texts)
            while len(texts) < read + 5:
                if collecting.done():
                    await collecting  # raises its error
                await asyncio.sleep(0.01)
            await asyncio.to_thread(engine.docker, "rm", "--force", container)
            looking.cancel()
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        await log.aclose()

    run(follow())
    begins = [index for index, text in enumerate(texts) if text == "0"]
    assert len(begins) == 3
    for begin, end in itertools.pairwise([*begins, len(texts)]):
        assert texts[begin:end] == [str(number) for number in range(end - begin)]


def test_a_log_driver_that_cannot_be_read_is_an_error_for_good(engine: DockerEngine, start: Start) -> None:
    container = start("echo one", "--log-driver", "none")
    with pytest.raises(LogsError, match="does not support reading") as caught:
        run(last(engine, 10, container))
    assert caught.value.lasting


def test_no_engine_may_be_there_again() -> None:
    def nobody() -> Connection:
        connection = Connection("unix:///nonexistent/docker.sock")
        connection.negotiate(1.0)
        return connection

    async def read() -> None:
        changes: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        changes.put_nowait(["0" * 64])
        async with aclosing(read_logs(nobody, containers_of(changes), 1, follow=False)) as log:
            await anext(log)

    with pytest.raises(LogsError, match="cannot find a Docker Engine") as caught:
        run(read())
    assert not caught.value.lasting
