"""Text layout for terminals: tables, colours and durations."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager.values import dataclass

_COLORS = {"red": 31, "green": 32, "yellow": 33}


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text and its colour: red, green, yellow or empty."""

    text: str
    color: str = ""
    bold: bool = False

    def styled(self, width: int = 0) -> str:
        """Return the text with its colour, padded to `width` columns."""
        padded = self.text + " " * (width - display_width(self.text))
        return style(padded, self.color, bold=self.bold)


def style(text: str, color: str = "", *, bold: bool = False) -> str:
    """Return the text in a colour (red, green, yellow or none), as click.style does."""
    begin = f"\x1b[{_COLORS[color]}m" if color else ""
    if bold:
        begin += "\x1b[1m"
    return f"{begin}{text}\x1b[0m" if begin else text


def table(
    header: Sequence[str], rows: Sequence[Sequence[Cell]], right: frozenset[int] = frozenset()
) -> list[str]:
    """Return the lines of a table; columns with an index in `right` are right-aligned."""
    head = [Cell(title, bold=True) for title in header]
    lines = [head, *rows]
    widths = [max(display_width(line[i].text) for line in lines) for i in range(len(header))]
    last = len(header) - 1
    result = []
    for line in lines:
        parts = []
        for i, cell in enumerate(line):
            if i in right:
                parts.append(" " * (widths[i] - display_width(cell.text)) + cell.styled())
            else:
                parts.append(cell.styled(0 if i == last else widths[i]))
        result.append("  ".join(parts).rstrip())
    return result


def display_width(text: str) -> int:
    """Return the width of the text in columns of a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)


def short_id(docker_id: str) -> str:
    """Return the short form of a container or image id, as docker shows and accepts."""
    return docker_id.removeprefix("sha256:")[:12]


def duration(seconds: float) -> str:
    """Return a duration as text: `1.6 s`, `42 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
