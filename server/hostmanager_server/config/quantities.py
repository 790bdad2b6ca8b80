"""Parsers of durations, sizes and numbers, as people write them."""

from __future__ import annotations

import math
import re

_NUMBER = r"\d{1,15}(?:\.\d{1,9})?"
_DURATION = re.compile(
    rf"(?:(?P<h>{_NUMBER})h)?(?:(?P<m>{_NUMBER})m(?!s))?(?:(?P<s>{_NUMBER})s)?(?:(?P<ms>{_NUMBER})ms)?",
    re.ASCII,
)
_SECONDS_PER_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SIZE = re.compile(rf"({_NUMBER})\s*(?:([kKMGT])(?:i?B)?|B)?", re.ASCII)
_EXPONENT = {None: 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def parse_number(text: str) -> float | None:
    """Return a finite number, or None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_whole(text: str) -> int | None:
    """Return a whole number of up to 18 digits, or None for any other text."""
    return int(text) if _WHOLE.fullmatch(text) else None


def parse_duration(text: str) -> float | None:
    """Return a duration in s, or None for any other text.

    A duration is a number of seconds, or hours, minutes, seconds and milliseconds in this order, such as
    1h30m, 1m 30s, 0.5s, 500ms.
    """
    packed = text.replace(" ", "")
    match = _DURATION.fullmatch(packed)
    if match is None or not packed:
        return parse_number(text)
    return sum(float(match[unit] or 0) * seconds for unit, seconds in _SECONDS_PER_UNIT.items())


def parse_size(text: str) -> int | None:
    """Return a size in bytes, or None for any other text.

    A size is a number of bytes, or a number with a unit, such as 512k, 10M, 10MB, 1.5GiB. All units are
    powers of 1024.
    """
    match = _SIZE.fullmatch(text)
    return int(float(match[1]) * 1024 ** _EXPONENT[match[2]]) if match is not None else None
