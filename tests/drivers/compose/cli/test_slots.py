"""Tests of the bounds on simultaneous calls."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from hostmanager_server.drivers.compose.cli.slots import Slots

from tests.waiting import wait_until


class Held:
    """A slot that a thread holds until `release`."""

    def __init__(
        self, slots: Slots, got: SimpleQueue[bool], *, abandoned: threading.Event, repeated: bool = False
    ) -> None:
        self._release = threading.Event()
        self._slots, self._got, self._abandoned, self._repeated = slots, got, abandoned, repeated
        self.thread = threading.Thread(target=self._hold, daemon=True)
        self.thread.start()

    def _hold(self) -> None:
        with self._slots.slot(self._abandoned.is_set, repeated=self._repeated) as given:
            self._got.put(given)
            if given:
                self._release.wait()

    def release(self) -> None:
        self._release.set()
        self.thread.join()


def test_a_call_waits_for_a_young_call_but_not_for_an_old_one() -> None:
    slots, got, abandoned = Slots(1, 10, young_time=0.05), SimpleQueue[bool](), threading.Event()
    held = [Held(slots, got, abandoned=abandoned) for _ in range(3)]  # all of them hang
    assert [got.get(timeout=30.0) for _ in held] == [True] * 3
    for each in held:
        each.release()


def test_the_bound_on_all_calls_holds_for_old_calls_too() -> None:
    slots, got, abandoned = Slots(1, 2, young_time=0.0), SimpleQueue[bool](), threading.Event()
    held = [Held(slots, got, abandoned=abandoned) for _ in range(2)]
    assert [got.get(timeout=30.0) for _ in held] == [True] * 2
    third = Held(slots, got, abandoned=abandoned)
    held[0].release()
    assert got.get(timeout=30.0)
    held[1].release()
    third.release()


def test_an_abandoned_wait_ends_without_a_slot() -> None:
    slots, got, abandoned = Slots(1, 1), SimpleQueue[bool](), threading.Event()
    held = Held(slots, got, abandoned=abandoned)
    assert got.get(timeout=30.0)
    waiting = Held(slots, got, abandoned=abandoned)
    abandoned.set()
    slots.wake()
    assert not got.get(timeout=30.0)
    held.release()
    waiting.release()
    wait_until(lambda: not held.thread.is_alive(), "the thread ends")


def test_a_repeated_attempt_lets_first_attempts_go_before() -> None:
    slots, got, abandoned = Slots(1, 10), SimpleQueue[bool](), threading.Event()
    first = Held(slots, got, abandoned=abandoned)
    assert got.get(timeout=30.0)
    again = Held(slots, SimpleQueue[bool](), abandoned=abandoned, repeated=True)
    second = Held(slots, got, abandoned=abandoned)
    first.release()
    assert got.get(timeout=30.0)  # of the second, although `again` came before
    second.release()
    again.release()
