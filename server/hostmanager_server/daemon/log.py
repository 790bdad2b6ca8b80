"""The daemon's log, written to stderr by a separate thread.

A caller that logs never waits, neither for a stalled reader of the pipe nor for a disk. The thread drops
lines that it cannot write, and writes the number of dropped lines first when writing works again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from hostmanager_server.core.printable import printable
from hostmanager_server.linux.thread_names import name_this_thread

# Lines that the queue holds; a start of 1,000 agents logs 3,000 lines at once.
MOST_WAITING = 10_000
MOST_EARLY = 1000
# How long `close` waits for a reader, in s.
PATIENCE = 2.0


class LineFormatter(logging.Formatter):
    """Formats a record as one line, and a traceback as indented lines after it.

    Log messages contain texts of config files, agents and clients. No such text can forge a line, or bring a
    control character to the terminal of a reader.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        """Return the message with control characters escaped."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- logging's name
        """Return the traceback as indented lines."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 -- logging's name
        """Return the stack as indented lines."""
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(f"    {printable(line)}" for line in text.split("\n"))


class DaemonLog(logging.Handler):
    """A logging handler that writes to a descriptor, in order.

    Call `close` before the process ends or executes another program.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        layout: str = "%(message)s",
        most_waiting: int = MOST_WAITING,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__()
        self.setFormatter(LineFormatter(layout))
        self._descriptor = descriptor
        self._patience = patience
        self._lines: queue.Queue[str | None] = queue.Queue(most_waiting)
        self._counting = threading.Lock()
        self._refused = 0  # lines that the full queue did not take
        self._file: int | None = None
        # The first lines, until the daemon knows whether a file takes them; None afterwards.
        self._early: deque[str] | None = deque(maxlen=MOST_EARLY)
        self._place = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="daemon-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record for the writing thread.

        The method never waits; a full queue drops the record.
        """
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._refused += 1

    def close(self) -> None:
        """Write the queued lines, and close the handler.

        The method gives up on lines that no reader takes within `patience` s. The handler writes nothing
        after that.
        """
        super().close()
        try:
            self._lines.put(None, timeout=self._patience)
        except queue.Full:
            return
        self._thread.join(self._patience)

    def keep_in(self, descriptor: int | None) -> None:
        """Write all lines so far, and all later lines, also to a file; None: there is no file."""
        with self._place:
            self._file, early, self._early = descriptor, self._early or (), None
            for line in early:
                self._write_to_file(line)

    # --- on the writing thread

    def _run(self) -> None:
        name_this_thread("daemon-log")
        dropped = 0
        while (line := self._lines.get()) is not None:
            with self._counting:
                dropped += self._refused
                self._refused = 0
            if dropped and self._write(
                f"{dropped} lines of this log could not be written, and are missing here"
            ):
                dropped = 0
            with self._place:  # the file first: a stalled reader of stderr must not keep lines from it
                if self._early is not None:
                    self._early.append(line)
                else:
                    self._write_to_file(line)
            if dropped or not self._write(line):
                dropped += 1

    def _write_to_file(self, line: str) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk, which the status of the daemon tells
                os.write(self._file, f"{line}\n".encode(errors="backslashreplace"))

    def _write(self, line: str) -> bool:
        data = f"{line}\n".encode(errors="backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # a full disk or a closed pipe; there is no other place to log to
            return False
        return True


def keep_in_file(descriptor: int | None) -> None:
    """Write the log of this process also to a file; without a file, or a DaemonLog, drop the early lines."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, DaemonLog):
            handler.keep_in(descriptor)
            return
    if descriptor is not None:
        os.close(descriptor)
