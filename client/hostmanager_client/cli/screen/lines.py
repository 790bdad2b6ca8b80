"""Lines of a screen: pieces of text with the names of their styles."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager_client.cli.plain import displayable
from hostmanager_client.cli.tables.width import display_width, wrap

# Pieces of (style, text); the styles are those of PALETTE.
Line = list[tuple[str, str]]

# Name, foreground and background of each style. Without colours only the attributes remain.
PALETTE = (
    ("", "default", "default"),
    ("green", "dark green", "default"),
    ("yellow", "brown", "default"),
    ("red", "light red", "default"),
    ("bold", "bold", "default"),
    ("selected", "standout", "default"),
    ("alarm", "light red,standout", "default"),
)
PALETTE_WITHOUT_COLORS = tuple(
    (
        name,
        "standout" if name in ("selected", "alarm") else "bold" if name == "bold" else "default",
        "default",
    )
    for name, _, _ in PALETTE
)


def plain_line(text: str, style: str = "") -> Line:
    """Return a line of one piece."""
    return [(style, displayable(text))]


def wrapped(text: str, width: int, most: int, style: str = "") -> list[Line]:
    """Return the lines of a text, broken between words: at most so many."""
    lines = wrap(displayable(text), max(width, 1))
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [[(style, line)] for line in lines]


def filled(pieces: Iterable[tuple[str, str]], width: int, style: str) -> Line:
    """Return a line with one style over the whole width."""
    text = "".join(text for _, text in pieces)
    return [(style, text + " " * max(0, width - display_width(text)))]
