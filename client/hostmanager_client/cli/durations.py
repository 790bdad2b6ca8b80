"""Durations on the command line: a number of seconds, or a text such as `90m`, `2h` or `1d12h`."""

from __future__ import annotations

import re

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"


def read_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return the duration of an option in s, for `callback`; raise BadParameter for other texts."""
    if value is None:
        return None
    text = value.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif re.fullmatch(f"({_PART})+", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
    else:
        raise click.BadParameter(f"{value!r} is no duration, such as 90m, 2h or 1d12h", ctx, param)
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"{value!r} must be more than 0 s", ctx, param)
    return seconds
