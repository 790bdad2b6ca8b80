"""The daemon's own log, written to stderr by a thread of its own.

Whoever logs never waits: not for a reader of the pipe that has stopped reading, nor for a disk. What cannot
be written is dropped, and how many lines that were is the first thing written when it works again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import Any

from hostmanager_server.core.printable import printable
from hostmanager_server.linux.thread_names import name_this_thread

# Lines that may wait; a start of 1,000 agents logs 3,000 at once.
MOST_WAITING = 10_000
# How long `close` waits for a reader, s.
PATIENCE = 2.0


class LineFormatter(logging.Formatter):
    """Formats a record as one line, and a traceback as indented lines after it.

    Texts of config files, agents and clients are in what is logged: none of them forges a line or reaches the
    terminal of a reader with a control character in it.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- logging's name
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 -- logging's name
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(f"    {printable(line)}" for line in text.split("\n"))


class DaemonLog(logging.Handler):
    """Writes what is logged to a descriptor, in order. `close` it before the process ends or is replaced."""

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
        self._refused = 0  # lines that found no place to wait
        self._thread = threading.Thread(target=self._run, name="daemon-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have the record written. Never waits, and raises nothing for what becomes of it."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._refused += 1

    def close(self) -> None:
        """Write what waits; what nobody takes within `patience` is given up. Nothing is written after."""
        super().close()
        try:
            self._lines.put(None, timeout=self._patience)
        except queue.Full:
            return
        self._thread.join(self._patience)

    # --- on the thread

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
            if dropped or not self._write(line):
                dropped += 1

    def _write(self, line: str) -> bool:
        data = f"{line}\n".encode(errors="backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # a full disk, a closed pipe; there is no other place to say so
            return False
        return True
