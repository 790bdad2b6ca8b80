"""Escapes for dangerous characters in foreign text, before the text reaches a terminal.

Text from daemons, agents and config files is untrusted. Control characters move the cursor, set the title,
fill the clipboard or answer queries; invisible characters disguise text. Each appears in the notation of
Python: `\x1b`, `\u202e`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

_ESCAPE = "\x1b"
# Control characters (C0 and C1) except tab and newline, and invisible or reordering characters: the Unicode
# categories Cf (except visible signs), Zl, Zp, Cs, and the default-ignorable letters and marks. Variation
# selectors 1 to 16 stay, as they choose the look of an emoji.
_INVISIBLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff"
)
_DANGEROUS = f"[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f{_INVISIBLE}]"
_BREAKS = r"[\t\n\r\x0b\x0c\x85]+"
# Permitted styles: bold, faint, italic, underlined, reverse, struck, their ends, colours.
_COLOUR = r"(?:0?[0-479]|2[2-579]|[34][0-79]|9[0-7]|10[0-7]|[34]8;5;[0-9]{1,3}|[34]8;2(?:;[0-9]{1,3}){3})"
_STYLE = rf"\x1b\[(?:{_COLOUR}(?:;{_COLOUR}){{0,5}})?m"
# grep and gcc clear the rest of the line after each colour, which has no effect here.
_CLEARING = r"\x1b\[0?K"
_STYLED = f"({_STYLE})|{_CLEARING}|\r(?=\n)"
_ANY_STYLE = r"\x1b\[[;?0-9]*[a-zA-Z]"

_OWN_STYLES = frozenset({"[0", "[1", "[31", "[32", "[33"})  # those of text.py
_expressions: dict[str, re.Pattern[str]] = {}


def _compiled(expression: str) -> re.Pattern[str]:
    """Return an expression, compiled at its first use.

    Ordinary text needs none, and the module and the expressions take ten milliseconds.
    """
    found = _expressions.get(expression)
    if found is None:
        import re

        found = _expressions[expression] = re.compile(expression)
    return found


def escape(text: str) -> str:
    """Return the text with escapes for dangerous characters; tabs and newlines stay."""
    return text if text.isprintable() else _compiled(_DANGEROUS).sub(_shown, text)


def one_line(text: str) -> str:
    """Return the text on one line, with escapes for dangerous characters."""
    return text if text.isprintable() else escape(_compiled(_BREAKS).sub(" ", text))


def escape_keep_colours(text: str) -> str:
    """Return the text with escapes for dangerous characters, but with its colours."""
    if _ESCAPE not in text and "\r" not in text:
        return escape(text)
    plain = _without_own_styles(text)
    if plain is not None and plain.replace("\n", "").isprintable():
        return text
    parts = _compiled(_STYLED).split(text)  # text and styles alternate; None for a dropped sequence
    return "".join((part or "") if n % 2 else escape(part) for n, part in enumerate(parts))


def without_styles(text: str) -> str:
    """Return the text without colours and other styles."""
    if _ESCAPE not in text:
        return text
    plain = _without_own_styles(text)
    return _compiled(_ANY_STYLE).sub("", text) if plain is None else plain


def _without_own_styles(text: str) -> str | None:
    """Return the text without the styles of this program; None if the text has further escapes."""
    first, *rest = text.split(_ESCAPE)
    plain = [first]
    for part in rest:
        style, end, after = part.partition("m")
        if not end or style not in _OWN_STYLES:
            return None
        plain.append(after)
    return "".join(plain)


def json_escape(document: str) -> str:
    """Return the JSON document with JSON escapes for dangerous characters."""
    return document if document.isprintable() else _compiled(_DANGEROUS).sub(_json_shown, document)


class StyleBounds:
    """A filter that ends every colour at the end of its line; accepts text in pieces."""

    _PIECES = f"{_STYLE}|\n"
    RESET = "\x1b[0m"

    def __init__(self) -> None:
        self.open = False

    def bound(self, text: str) -> str:
        """Return a piece of text, with a reset before each newline inside a colour."""
        if not self.open and all(_ends_plain(line) for line in text.split("\n")):
            return text
        return _compiled(self._PIECES).sub(self._bounded, text)

    def _bounded(self, match: re.Match[str]) -> str:
        piece = match[0]
        if piece == "\n":
            end = self.RESET if self.open else ""
            self.open = False
            return f"{end}\n"
        self.open = piece not in ("\x1b[m", "\x1b[0m", "\x1b[00m")
        return piece


def _ends_plain(line: str) -> bool:
    _, escape, rest = line.rpartition(_ESCAPE)
    return not escape or rest.startswith("[0m")


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_shown(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
