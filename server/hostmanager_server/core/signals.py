"""Names and numbers of signals, those of real-time signals included."""

from __future__ import annotations

import functools
import re
import signal

_REAL_TIME = re.compile(r"(RTMIN|RTMAX)(?:([+-])(\d{1,2}))?", re.ASCII)
_FIRST, _LAST = int(signal.SIGRTMIN), int(signal.SIGRTMAX)


@functools.lru_cache
def signal_name(signum: int) -> str:
    """Return the name of a signal, such as SIGTERM or SIGRTMIN+3; SIG and the number if unnamed."""
    if _FIRST < signum < _LAST:
        return f"SIGRTMIN+{signum - _FIRST}"
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"SIG{signum}"


def end_word(code: int) -> str:
    """Return an entry of InstanceSpec.success_codes as a word of the site config."""
    return str(code) if code >= 0 else signal_name(-code).removeprefix("SIG")


def parse_signal(text: str) -> int | None:
    """Return the number of a signal: a name with or without SIG, a number, RTMIN+n or RTMAX-n; else None."""
    if text.isascii() and text.isdecimal():
        number = int(text[:9])
        return number if 1 <= number <= _LAST else None
    name = text.upper().removeprefix("SIG")
    if match := _REAL_TIME.fullmatch(name):
        base = _FIRST if match[1] == "RTMIN" else _LAST
        number = base + int(f"{match[2] or '+'}{match[3] or 0}")
        return number if _FIRST <= number <= _LAST else None
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        return None


def signal_names() -> list[str]:
    """Return the names of all signals but the real-time ones, without SIG."""
    return [each.name.removeprefix("SIG") for each in signal.Signals if each < _FIRST]
