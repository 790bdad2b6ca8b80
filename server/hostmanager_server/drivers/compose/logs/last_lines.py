"""The wanted part of a container's output: its times, and its last lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hostmanager_server.drivers.compose.logs.demultiplexer import (
    OutputLine,
    engine_time,
    engine_time_of,
    seconds_of,
)
from hostmanager_server.drivers.output.wanted_lines import WantedLines

# s; the engine notes the start of a container after its process has begun, and may have written.
START_NOTED_LATE = 0.1
MOST_CHARACTERS = 8 * 1024**2  # held for one reader; of more, the oldest lines are dropped


def wanted_times(wanted: WantedLines | None, state: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first and the last wanted time, as in LogMessage; empty: no limit.

    `state` is that of the engine's inspection. The engine tells the last start and the last end, and none
    before: of a running container, `runs_back` means all output before the present start.
    """
    if wanted is None:
        return "", ""
    begin, end = "", "" if wanted.until is None else engine_time_of(wanted.until)
    if wanted.runs_back:
        started, finished = (
            seconds_of(engine_time(state.get(key, ""))) for key in ("StartedAt", "FinishedAt")
        )
        if state.get("Running"):
            last = engine_time_of((started + finished) / 2 if finished else 0.0)  # 0: the first run
            end = min(end, last) if end else last
        elif started:
            begin = engine_time_of(started - START_NOTED_LATE)
    return begin, end


class LastOutput:
    """The last lines of output that passes by, bounded in number and characters."""

    def __init__(self, lines: int) -> None:
        """Hold at most this number of lines."""
        self._wanted = lines
        self._lines: deque[OutputLine] = deque()
        self._whole = 0  # lines that no other continues
        self._size = 0

    def add(self, batch: Sequence[OutputLine]) -> None:
        """Add lines, and drop those that are too old by now."""
        for line in batch:
            self._lines.append(line)
            self._whole += not line.continues
            self._size += len(line.text)
            while self._lines and (self._whole > self._wanted or self._size > MOST_CHARACTERS):
                dropped = self._lines.popleft()
                self._whole -= not dropped.continues
                self._size -= len(dropped.text)

    def batches(self, size: int) -> Iterator[list[OutputLine]]:
        """Yield the lines in batches of a size."""
        lines = list(self._lines)
        for start in range(0, len(lines), size):
            yield lines[start : start + size]
