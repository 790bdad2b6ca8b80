"""Exceptions on the main thread for signals and time limits."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from hostmanager_client.demo.lab import DemoError, DemoLab

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoEnded(BaseException):
    """The signal `signum` ends the demo."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def ending_signals(lab: DemoLab) -> Iterator[None]:
    """Raise DemoEnded at the first signal of ENDING, within the context.

    Further signals, and every signal while the lab closes, set `kill_now` of the lab.
    """
    received = False

    def handle(signum: int, _: FrameType | None) -> None:
        nonlocal received
        if received or lab.closing:
            lab.kill_now = True
            return
        received = True
        raise DemoEnded(signum)

    before = {signum: signal.signal(signum, handle) for signum in ENDING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise DemoError after `seconds` within the context."""

    def handle(_signum: int, _frame: FrameType | None) -> NoReturn:
        raise DemoError(f"no result within {seconds:g} s: {what}")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
