"""Signals that end the demo, and time limits, as exceptions on the main thread."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from hostmanager_client.demo.lab import DemoError, Lab

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoEnded(BaseException):
    """Somebody asked the demo to end; `signum` is how."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def ending_signals(lab: Lab) -> Iterator[None]:
    """Within, the first signal that asks to end raises Ended. A further one, and any that comes while the
    lab is closing, tells the lab to kill_now."""
    asked = False

    def handle(signum: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked or lab.closing:
            lab.kill_now = True
            return
        asked = True
        raise DemoEnded(signum)

    before = {signum: signal.signal(signum, handle) for signum in ENDING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Within, DemoError is raised after `seconds`."""

    def handle(_signum: int, _frame: FrameType | None) -> NoReturn:
        raise DemoError(f"gave up after {seconds:g} s: {what}")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
