"""The last lines that a run wrote: a bounded text for people, read when the run has ended."""

from __future__ import annotations

import os
import re

from hostmanager.values import replace

from hostmanager_server.core.printable import printable
from hostmanager_server.drivers.output.stream import OutputMark, OutputStream

LINES = 5
CHARACTERS = 500  # in all lines together
_WINDOW = 4096  # bytes at the end of the file, so the cost does not depend on the size of the output
_CUT = "…"
_SHORTEST_CUT = 20  # a shorter piece of a line says nothing
# Colours and other sequences of terminals; no character takes part in two alternatives, so no backtracking.
_STYLES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z^_])")


def mark_end(stream: OutputStream, fd: int) -> OutputMark:
    """Return the mark of a run that begins at the end of the open file."""
    status = os.fstat(fd)
    # The stream counts a removal before the file shrinks: a mark may be late by a removal, and never early.
    return OutputMark(status.st_ino, status.st_size, stream.collapsing)


def resume_mark(stream: OutputStream, recorded: OutputMark | None) -> OutputMark | None:
    """Return the mark of a run of an earlier daemon; None without a file.

    A file that was replaced or has shrunk since has lost the place: the run then begins at the present end.
    """
    try:
        fd = stream.open_live()
    except OSError:
        return None
    try:
        now = mark_end(stream, fd)
    finally:
        os.close(fd)
    if recorded is None or recorded.inode != now.inode or recorded.size > now.size:
        return now
    return replace(now, size=recorded.size)


def read_last_output(stream: OutputStream, mark: OutputMark | None) -> str:
    """Return the last lines after the mark, empty if there are none or the file cannot be read.

    Lines of an earlier run never count. A rotation at this moment may cost some lines.
    """
    if mark is None:
        return ""
    collapsed = stream.collapsed
    begin = mark.size - (collapsed - mark.collapsed)
    if stream.is_live(mark.inode, begin):  # the run wrote nothing
        return ""
    try:
        fd = stream.open_live()
    except OSError:
        return ""
    try:
        status = os.fstat(fd)
        if status.st_ino != mark.inode:
            return ""
        if status.st_size < begin:
            if stream.collapsing != collapsed:
                return ""
            begin = 0  # an operator truncated the file, so every byte is younger
        start = max(begin, status.st_size - _WINDOW)
        data = os.pread(fd, _WINDOW, start)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return last_lines(data, begins_inside=start > begin)


def last_lines(data: bytes, *, begins_inside: bool = False) -> str:
    """Return the last lines that are not empty, printable, with line ends between them.

    A line that the agent overwrote with carriage returns counts in its last state. `begins_inside`: the data
    begin inside a line.
    """
    text = data.lstrip(b"\0").decode("utf-8", errors="replace")  # a rotation leaves a hole
    head, end, rest = text.partition("\n")
    if begins_inside and end and rest.strip():
        text = rest
    elif begins_inside and head.strip():
        text = f"{_CUT}{head.lstrip(chr(0xFFFD))}"
    if "\x1b" in text:
        text = _STYLES.sub("", text)
    found: list[str] = []
    left = CHARACTERS
    for raw in reversed(text.split("\n")):
        # Only as much of a line as fits becomes printable: a line may be long, and full of escapes.
        line = printable(_last_state(raw)[: left + 1].replace("\t", " ")).rstrip()
        if not line:
            continue
        if len(line) > left:
            if left < _SHORTEST_CUT:
                break
            line = line[: left - 1] + _CUT
        found.append(line)
        left -= len(line) + 1
        if len(found) == LINES or left <= 0:
            break
    return "\n".join(reversed(found))


def _last_state(line: str) -> str:
    """Return what a terminal shows of a line that carriage returns overwrote."""
    if "\r" not in line:
        return line
    return next((state for state in reversed(line.split("\r")) if state.strip()), "")
