"""Text for terminals: cells, colours, short ids and durations."""

from __future__ import annotations

from hostmanager.values import dataclass

TYPE_CHECKING = False

_COLORS = {"red": 31, "green": 32, "yellow": 33}


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text and its colour: red, green, yellow or empty."""

    text: str
    color: str = ""
    bold: bool = False

    def styled(self) -> str:
        """Return the text with its colour."""
        return style(self.text, self.color, bold=self.bold)


def style(text: str, color: str = "", *, bold: bool = False) -> str:
    """Return the text in a colour (red, green, yellow or none), as click.style does."""
    begin = f"\x1b[{_COLORS[color]}m" if color else ""
    if bold:
        begin += "\x1b[1m"
    return f"{begin}{text}\x1b[0m" if begin else text


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
