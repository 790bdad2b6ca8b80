"""Text of config files, agents and clients, made harmless for logs and terminals."""

from __future__ import annotations


def printable(text: str) -> str:
    """Show the text on one line, with control and invisible characters as Python escapes them: `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
