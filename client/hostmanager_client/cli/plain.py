"""Plain forms of the few characters beyond ASCII that the command line itself prints.

A terminal with another encoding than UTF-8, or in the locale C, may not have them. Each form has the width
of its character, so that tables stay aligned.
"""

from __future__ import annotations

import codecs
import os
import sys

HANDLER = "hostmanager.plain"  # for the argument `errors` of streams
_FORMS = {"…": "~", "·": "|", "→": ">", "▲": "^", "▼": "v"}
_TABLE = str.maketrans(_FORMS)
ASCII = ("ascii", "us-ascii", "ansi_x3.4-1968", "646")  # names of the encoding, in lower case
_C_LOCALES = ("C", "POSIX")


def register() -> None:
    """Make HANDLER known: the plain form, or an escape such as `\\u2013`, for what a stream cannot have."""
    codecs.register_error(HANDLER, _replace)


def displayable(text: str) -> str:
    """Return the text as standard output will show it."""
    if text.isascii():
        return text
    if _locale_is_c() or (sys.__stdout__ is not None and sys.__stdout__.encoding.lower() in ASCII):
        text = text.translate(_TABLE)
    encoding = (sys.stdout.encoding or "utf-8").lower()
    if encoding.startswith("utf"):
        return text
    return text.encode(encoding, HANDLER).decode(encoding)


def _locale_is_c() -> bool:
    """Return whether the user asked for the locale C.

    In this locale Python writes UTF-8 all the same, and sets LC_CTYPE to C.UTF-8.
    """
    environ = os.environ
    if name := environ.get("LC_ALL"):
        return name in _C_LOCALES
    character_type = environ.get("LC_CTYPE", "")
    return (character_type in _C_LOCALES or character_type in ("", "C.UTF-8")) and environ.get(
        "LANG"
    ) in _C_LOCALES


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_FORMS.get(c) or _escaped(c) for c in text), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")
