"""Durations on the command line: a number of seconds, or a text such as `90m`, `2h` or `1d12h`."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"


class DurationParam(click.ParamType[float]):
    """A positive duration, as a float in s."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the duration in s; fail for other texts."""
        text = str(value).strip().lower()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        elif re.fullmatch(f"({_PART})+", text):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
        else:
            self.fail(f"{value!r} is no duration, such as 90m, 2h or 1d12h", param, ctx)
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} must be more than 0 s", param, ctx)
        return seconds
