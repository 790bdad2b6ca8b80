"""Text of others, made harmless for terminals.

Daemons, agents and config files are not trusted with the terminal of their reader: control characters move
the cursor, set the title, fill the clipboard or answer questions; invisible ones make text look other than it
is. Each is shown as Python writes it: `\x1b`, `\u202e`.
"""

from __future__ import annotations

import re

_ESCAPE = "\x1b"
# Control characters (C0 and C1) but tab and newline, and all that is invisible or reorders text: Unicode's
# categories Cf (but signs that show), Zl, Zp, Cs, and the default-ignorable letters and marks. Variation
# selectors 1 to 16 stay: they choose the look of an emoji.
_INVISIBLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff"
)
_DANGEROUS = re.compile(f"[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f{_INVISIBLE}]")
_BREAKS = re.compile(r"[\t\n\r\x0b\x0c\x85]+")
# What colours text, within bounds: bold, faint, italic, underlined, reverse, struck, their ends, colours.
_COLOUR = r"(?:0?[0-479]|2[2-579]|[34][0-79]|9[0-7]|10[0-7]|[34]8;5;[0-9]{1,3}|[34]8;2(?:;[0-9]{1,3}){3})"
_STYLE = rf"\x1b\[(?:{_COLOUR}(?:;{_COLOUR}){{0,5}})?m"
# Clearing the rest of the line, as grep and gcc do after each colour, has nothing to clear here.
_CLEARING = r"\x1b\[0?K"
_STYLED = re.compile(f"({_STYLE})|{_CLEARING}|\r(?=\n)")


def escape(text: str) -> str:
    """Show every dangerous character as an escape; tabs and newlines stay."""
    return text if text.isprintable() else _DANGEROUS.sub(_shown, text)


def one_line(text: str) -> str:
    """Show the text on one line, with all that is dangerous as escapes."""
    return text if text.isprintable() else escape(_BREAKS.sub(" ", text))


def escape_keep_colours(text: str) -> str:
    """Show every dangerous character as an escape, but let pass what merely colours text."""
    if _ESCAPE not in text and "\r" not in text:
        return escape(text)
    parts = _STYLED.split(text)  # text and styles in turn; None where something is left out
    return "".join((part or "") if n % 2 else escape(part) for n, part in enumerate(parts))


def json_escape(document: str) -> str:
    """Show every dangerous character of a JSON document as JSON escapes it."""
    return document if document.isprintable() else _DANGEROUS.sub(_json_shown, document)


class StyleBounds:
    """Ends every colour at the end of its line, whoever wrote it. Text may come in pieces."""

    _PIECES = re.compile(f"{_STYLE}|\n")
    RESET = "\x1b[0m"

    def __init__(self) -> None:
        self.open = False

    def bound(self, text: str) -> str:
        if not self.open and _ESCAPE not in text:
            return text
        return self._PIECES.sub(self._bounded, text)

    def _bounded(self, match: re.Match[str]) -> str:
        piece = match[0]
        if piece == "\n":
            end = self.RESET if self.open else ""
            self.open = False
            return f"{end}\n"
        self.open = piece not in ("\x1b[m", "\x1b[0m", "\x1b[00m")
        return piece


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_shown(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
