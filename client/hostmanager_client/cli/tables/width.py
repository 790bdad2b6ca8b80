"""Widths of text in columns of a terminal, and cuts to a width."""

from __future__ import annotations

from hostmanager_client.cli.escape import without_styles
from hostmanager_client.cli.plain import displayable

TYPE_CHECKING = False  # short commands do without the packages `collections` and `functools`
if TYPE_CHECKING:
    from collections.abc import Iterator

_NARROW = "…→"  # characters of this program beyond the range without wide and combining characters
_FIRST_COMBINING = "\u0300"
_widths: dict[str, int] = {}  # of characters
_JAMO = ("\u1160", "\u11ff")  # vowels and finals of Hangul, which join the syllable before


def display_width(text: str) -> int:
    """Return the width of the text in columns of a terminal."""
    if text.isascii() or all(c < _FIRST_COMBINING or c in _NARROW for c in text):
        return len(text)
    return sum(map(_width, text))


def measure(text: str) -> tuple[str, int]:
    """Return the text as standard output will show it, and its width."""
    if text.isascii():
        return text, len(text)
    text = displayable(text)
    return text, display_width(text)


def _width(character: str) -> int:
    if character < _FIRST_COMBINING:
        return 1
    found = _widths.get(character)
    if found is None:
        found = _widths[character] = _measured_width(character)
    return found


def _measured_width(character: str) -> int:
    import unicodedata

    if unicodedata.category(character) in ("Mn", "Me", "Cf") or _JAMO[0] <= character <= _JAMO[1]:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return the text, cut to a width; a mark at the end tells of the cut."""
    if display_width(text) <= width:
        return text
    return _head(text, width - 1) + mark() if width > 0 else ""


def cut_middle(text: str, width: int) -> str:
    """Return the text, cut to a width in the middle, as ids often differ in their ends."""
    if display_width(text) <= width:
        return text
    if width < 3:
        return cut(text, width)
    tail = _head(text[::-1], (width - 1) // 2)[::-1]
    while tail and not _width(tail[0]):  # a combining character belongs to the character before
        tail = tail[1:]
    return _head(text, width - 1 - display_width(tail)) + mark() + tail


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return the text with spaces up to a width: after the text, or before if aligned `right`."""
    spaces = " " * (width - display_width(text))
    return spaces + text if right else text + spaces


def wrap(text: str, width: int) -> list[str]:
    """Return the lines of a text, broken between words; a word that is too long for a line is cut.

    Scripts without spaces, whose characters are wide, break between characters.
    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if display_width(joined) <= width:
            line = joined
            continue
        lines += [line] if line else []
        *whole, line = _pieces(word, width)
        lines += whole
    return [*lines, line] if line or not lines else lines


def wrap_styled(line: str, width: int) -> str:
    """Return a line that may have colours with breaks between words; words stay whole."""
    if display_width(without_styles(line)) <= width:
        return line
    text, used = "", 0
    for word in line.split(" "):
        length = display_width(without_styles(word))
        fits = used + 1 + length <= width
        text += (" " if fits else "\n") + word if text else word
        used = used + 1 + length if fits and used else length
    return text


def mark() -> str:
    """Return the character that stands for what was cut off."""
    return displayable("…")


def _pieces(word: str, width: int) -> Iterator[str]:
    if display_width(word) <= width or not any(_width(c) == 2 for c in word):
        yield cut(word, width)
        return
    while word:
        head = _head(word, max(width, 2))
        yield head
        word = word[len(head) :]


def _head(text: str, width: int) -> str:
    """Return the longest start of the text within a width."""
    if text.isascii():
        return text[: max(width, 0)]
    used = 0
    for n, character in enumerate(text):
        used += _width(character)
        if used > width:
            return text[:n]
    return text
