"""The reader of standard output, whose departure ends commands that follow.

A command that follows may write nothing for hours. Without a look at the other end of its pipe it would stay
behind for that long.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def until_reader_leaves(end: Callable[[], object]) -> Iterator[None]:
    """Call `end`, from another thread, when the reader of standard output has left.

    `end` must end the work of the context, as the `close` of a client does. Then the context raises
    BrokenPipeError, as a write would.
    """
    watch = _ReaderWatch(end)
    try:
        yield
    except Exception as error:  # the work may stumble over the early end
        if watch.left:
            raise BrokenPipeError from error
        raise
    finally:
        watch.stop()
    if watch.left:
        raise BrokenPipeError


class _ReaderWatch:
    """A thread that waits for the departure of the reader."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.left = False
        self._end = end
        self._thread: threading.Thread | None = None
        output = _output_with_reader()
        if output is None:
            return
        self._stopped = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(
            target=self._watch, args=(output,), name="hostmanager-reader", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is not None:
            os.eventfd_write(self._stopped, 1)
            self._thread.join()
            os.close(self._stopped)

    def _watch(self, output: int) -> None:
        poll = select.poll()
        poll.register(output, 0)  # an error or a hang-up is always reported
        poll.register(self._stopped, select.POLLIN)
        if any(descriptor == output for descriptor, _ in poll.poll()):
            self.left = True
            self._end()


def _output_with_reader() -> int | None:
    """Return the descriptor of standard output if a reader may leave: of a pipe, a socket or a terminal."""
    try:
        output = sys.stdout.fileno()
        mode = os.fstat(output).st_mode
    except (OSError, ValueError):
        return None
    return output if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(output) else None
