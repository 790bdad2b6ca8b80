"""The event loop of the supervisor thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostmanager_server.supervisor.loop import Loop

PATIENCE = 30.0


class RunningLoop:
    """A loop that runs on a thread."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.deadline: float | None = None
        self.thread = threading.Thread(target=self.loop.run, args=(lambda: self.deadline,))
        self.thread.start()

    def barrier(self) -> None:
        """Wait until the loop has run all callbacks posted so far."""
        done = threading.Event()
        self.loop.call_soon(done.set)
        assert done.wait(PATIENCE)

    def is_waiting(self) -> bool:
        """Return whether the thread sleeps in epoll.

        Kernels without wait channels do not tell the reason of the sleep; any sleep counts there.
        """
        task = Path(f"/proc/self/task/{self.thread.native_id}")
        where = (task / "wchan").read_text()
        sleeps = "\nState:\tS" in (task / "status").read_text()
        return sleeps and (where == "0" or "ep" in where)  # ep_poll, do_epoll_wait

    def switches(self) -> int:
        """Return the number of voluntary context switches of the thread."""
        text = Path(f"/proc/self/task/{self.thread.native_id}/status").read_text()
        return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.fixture
def running() -> Iterator[RunningLoop]:
    running = RunningLoop()
    yield running
    running.loop.stop()
    running.thread.join()
    running.loop.close()


def test_callbacks_of_many_threads_run_once_and_in_order(running: RunningLoop) -> None:
    ran: list[tuple[int, int]] = []

    def post(who: int) -> None:
        for n in range(1000):
            running.loop.call_soon(lambda n=n: ran.append((who, n)))  # type: ignore[misc]  # mypy: lambda default

    threads = [threading.Thread(target=post, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.barrier()
    for who in range(4):
        assert [n for w, n in ran if w == who] == list(range(1000))


def test_a_callback_that_raises_does_not_end_the_loop(running: RunningLoop) -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    running.loop.call_soon(fail)
    running.barrier()
    assert running.thread.is_alive()


def test_timers_fire_in_the_order_of_their_times_unless_cancelled(running: RunningLoop) -> None:
    ran: list[str] = []
    done = threading.Event()

    def arm() -> None:
        running.loop.call_later(0.03, done.set)
        running.loop.call_later(0.02, lambda: ran.append("later"))
        timer = running.loop.call_later(0.015, lambda: ran.append("cancelled"))
        running.loop.call_later(0.01, lambda: ran.append("sooner"))
        timer.cancel()
        timer.cancel()

    running.loop.call_soon(arm)
    assert done.wait(PATIENCE)
    assert ran == ["sooner", "later"]


def test_a_descriptor_is_watched_until_unwatch(running: RunningLoop) -> None:
    fd = os.eventfd(0)
    values: list[int] = []

    def readable() -> None:
        values.append(os.eventfd_read(fd))
        done.set()

    done = threading.Event()
    running.loop.call_soon(lambda: running.loop.watch(fd, readable))
    os.eventfd_write(fd, 7)
    assert done.wait(PATIENCE)
    running.loop.call_soon(lambda: running.loop.unwatch(fd))
    running.loop.call_soon(lambda: running.loop.unwatch(fd))
    running.barrier()
    os.eventfd_write(fd, 1)
    running.barrier()
    assert values == [7]
    os.close(fd)


def test_an_idle_loop_is_not_woken(running: RunningLoop) -> None:
    other = RunningLoop()
    try:
        running.barrier()
        running.barrier()
        end = time.monotonic() + PATIENCE
        before = -1
        while not running.is_waiting() or before != running.switches():  # the thread goes to sleep
            assert time.monotonic() < end
            before = running.switches()
            other.barrier()
        ticked = threading.Event()

        def tick() -> None:
            other.loop.call_later(0.3, ticked.set)

        other.loop.call_soon(tick)
        assert ticked.wait(PATIENCE)
        assert running.switches() == before
    finally:
        other.loop.stop()
        other.thread.join()
        other.loop.close()


def test_a_closed_loop_ignores_callbacks() -> None:
    loop = Loop()
    loop.close()
    loop.call_soon(lambda: None)
