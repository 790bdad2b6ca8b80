"""The format of environment files: a subset of systemd's, in lines NAME=VALUE.

systemd reads every valid file in the same way.

The page docs/reference/site-config.md describes the format. The parser expands nothing. A line that
systemd, docker and a shell would read differently is an error, because the meaning must be explicit. No
message quotes a value.
"""

from __future__ import annotations

import re

from hostmanager.values import dataclass

MAX_VARIABLES = 1000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPABLE = '"\\$`'  # characters that a backslash escapes between double quotes, as in a shell


class EnvFormatError(Exception):
    """A line without a clear meaning; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message, self.line = message, line


@dataclass(frozen=True, slots=True)
class _Value:
    text: str
    lines: int  # lines that the value spans


def parse_env(text: str) -> dict[str, str]:
    """Return the variables of a file, in its order. Raises EnvFormatError."""
    found: dict[str, str] = {}
    first: dict[str, int] = {}
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].removesuffix("\r").strip(" \t")
        at += 1
        if not line or line[0] in "#;":
            continue
        if "\r" in line:
            raise EnvFormatError("has a carriage return within; save the file with plain line ends", number)
        name, equals, rest = line.partition("=")
        _check_name(name, equals, number)
        if name in first:
            raise EnvFormatError(f"sets {name} a second time (first in line {first[name]})", number)
        if len(first) == MAX_VARIABLES:
            raise EnvFormatError(f"has more than {MAX_VARIABLES} variables; remove some", number)
        first[name] = number
        crlf = lines[number - 1].endswith("\r")
        value = _value([rest.lstrip(" \t") + "\r" * crlf, *lines[at:]], name, number)
        found[name] = value.text
        at += value.lines - 1
    return found


def _check_name(name: str, equals: str, line: int) -> None:
    if not equals:
        raise EnvFormatError("has no '='; write NAME=VALUE", line)
    if name.startswith("export "):
        raise EnvFormatError("begins with 'export', which systemd does not know; remove that word", line)
    if name != name.rstrip(" \t"):
        raise EnvFormatError("has a blank before the '='; write NAME=VALUE", line)
    if not _NAME.fullmatch(name):
        raise EnvFormatError(
            "has no name for a variable before its '='; use letters, digits and _, and no digit first", line
        )


def _value(rest: list[str], name: str, line: int) -> _Value:
    """Return the value that starts at the first of these lines, the rest of the file."""
    quote = rest[0][:1]
    if quote in ("'", '"'):
        return _quoted(rest, quote, name, line)
    text = rest[0].removesuffix("\r")
    if "\\" in text:
        raise EnvFormatError(
            f"has a backslash in the value of {name}, which programs read differently; "
            "put the value into single quotes",
            line,
        )
    if re.search(r"(^|[ \t])#", text):
        raise EnvFormatError(
            f"has a '#' after a blank in the value of {name}; put the value into quotes, "
            "or the comment on a separate line",
            line,
        )
    return _Value(_without_nul(text, name, line), 1)


def _quoted(rest: list[str], quote: str, name: str, line: int) -> _Value:
    """Return a quoted value, which may span lines."""
    text: list[str] = []
    for count, given in enumerate(rest, 1):
        current = given.removesuffix("\r")
        at = 1 if count == 1 else 0
        continues = False
        while at < len(current):
            char = current[at]
            if char == quote:
                _check_rest(current[at + 1 :], name, line + count - 1)
                return _Value(_without_nul("".join(text), name, line), count)
            if char == "\\" and quote == '"':
                if at + 1 == len(current):
                    continues = True
                elif current[at + 1] in _ESCAPABLE:
                    at += 1
                    text.append(current[at])
                else:
                    text.append(char)
            else:
                text.append(char)
            at += 1
        if "\r" in given:
            raise EnvFormatError(
                f"has a carriage return in the value of {name}; save the file with plain line ends",
                line + count - 1,
            )
        if not continues:
            text.append("\n")
    raise EnvFormatError(f"opens a quote for the value of {name} that nothing closes; close it", line)


def _check_rest(text: str, name: str, line: int) -> None:
    rest = text.strip(" \t")
    if rest:
        raise EnvFormatError(
            f"goes on after the closing quote of the value of {name}; quote all of the value, "
            "and put a comment on a separate line",
            line,
        )


def _without_nul(text: str, name: str, line: int) -> str:
    if "\0" in text:
        raise EnvFormatError(f"has a NUL in the value of {name}, which no variable can hold", line)
    return text
