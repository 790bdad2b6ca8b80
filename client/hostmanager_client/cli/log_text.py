"""Log lines as people read them: prefixes, times, folded progress bars, matches."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator

from hostmanager.values import dataclass

from hostmanager_client.cli.escape import one_line, without_styles
from hostmanager_client.cli.output import print_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

_PREFIX_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow")
_UNKNOWN_TIME = "-"
_TIME_WIDTH = len("2026-11-28 16:20:01")
_WIDEST_ID = 40  # a longer id moves its own lines only


@dataclass(frozen=True, slots=True)
class LogStyle:
    """How lines appear. `prefixes`: the ids whose lines carry their id in front; empty for none."""

    prefixes: tuple[str, ...] = ()
    times: bool = False
    raw: bool = False


class LogPrinter:
    """The printer of the lines of one command."""

    def __init__(self, style: LogStyle) -> None:
        """Print nothing yet."""
        self._style = style
        self._width = max((min(len(one_line(each)), _WIDEST_ID) for each in style.prefixes), default=0)
        self._order = {each: n for n, each in enumerate(style.prefixes)}
        self._open: str | None = None  # the instance whose line has not ended

    def show(self, instance_id: str, line: pb.LogLine) -> None:
        """Print a line or a piece of one. A piece of another instance's line begins a new line."""
        text, raw = line.text, self._style.raw
        if not raw:
            overwritten = "\r" in text.rstrip("\r")
            text = fold(text) if overwritten else text.removesuffix("\r")
            if self._open == instance_id and overwritten:
                self.end()  # the terminal would overwrite the piece before
            if not sys.stdout.isatty():
                text = without_styles(text)
        if self._open is not None and self._open != instance_id:
            self.end()
        start = "" if self._open == instance_id else self._start(instance_id, line)
        print_log(text, continues=line.continues, raw=raw, before=start)
        self._open = instance_id if line.continues else None

    def end(self) -> None:
        """End a line that has not ended."""
        if self._open is not None:
            print_log("", continues=False, raw=self._style.raw)
            self._open = None

    def _start(self, instance_id: str, line: pb.LogLine) -> str:
        """Return the text before a line."""
        start = ""
        if self._style.prefixes:
            import click

            colour = _PREFIX_COLOURS[self._order.get(instance_id, 0) % len(_PREFIX_COLOURS)]
            start = click.style(f"{one_line(instance_id):{self._width}} |", fg=colour) + " "
        if self._style.times:
            start += f"{_time(line):{_TIME_WIDTH}}  "
        return start if sys.stdout.isatty() else without_styles(start)


def _time(line: pb.LogLine) -> str:
    if not line.HasField("time"):
        return _UNKNOWN_TIME
    from hostmanager_client.words import to_datetime

    return f"{to_datetime(line.time).astimezone():%Y-%m-%d %H:%M:%S}"


def fold(text: str) -> str:
    """Return what a terminal shows last of a line that carriage returns overwrote, such as a progress bar."""
    states = text.split("\r")
    return next((state for state in reversed(states) if without_styles(state).strip()), "")


class LogFilter:
    """The choice of lines by a regular expression, on the text without colours."""

    def __init__(self, pattern: str, *, ignore_case: bool, invert: bool) -> None:
        """Compile the pattern; raise re.error for a pattern that is none."""
        self._search = re.compile(pattern, re.IGNORECASE if ignore_case else 0).search
        self._invert = invert
        self._shown: dict[str, bool] = {}  # the choice for the line that a piece began

    def accepts(self, instance_id: str, line: pb.LogLine) -> bool:
        """Return whether to show a line. The first piece of a long line decides for all of it."""
        shown = self._shown.pop(instance_id, None)
        if shown is None:
            shown = bool(self._search(without_styles(line.text))) != self._invert
        if line.continues:
            self._shown[instance_id] = shown
        return shown


def last(lines: Iterable[tuple[str, pb.LogLine]], count: int) -> Iterator[tuple[str, pb.LogLine]]:
    """Return the last `count` lines; pieces of a line count as one."""
    kept: deque[tuple[str, pb.LogLine]] = deque()
    whole = 0
    for each in lines:
        kept.append(each)
        whole += not each[1].continues
        while whole > count:
            whole -= not kept.popleft()[1].continues
    return iter(kept)
