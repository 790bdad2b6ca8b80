"""Waits for conditions that no event announces.

The helpers poll. A test that can block on an event, a future or a socket blocks there instead.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Upper bound for a condition on a busy machine, s. A passing test never waits this long.
TIMEOUT = 60.0
POLL_INTERVAL = 0.01  # s


def wait_until(condition: Callable[[], T], what: str, timeout: float = TIMEOUT) -> T:
    """Poll a condition until its value is true, and return the value.

    `what` names the awaited state in the error message; `timeout` is in seconds. Raises AssertionError
    when the condition stays false until the timeout.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()  # time.sleep may be patched by a test
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for: {what}")
        pause.wait(POLL_INTERVAL)


async def wait_until_async(
    condition: Callable[[], T],
    what: str,
    timeout: float = TIMEOUT,  # noqa: ASYNC109  # the message needs the number
) -> T:
    """Poll a condition between other work of the loop; see `wait_until`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for: {what}")
        await asyncio.sleep(POLL_INTERVAL)
