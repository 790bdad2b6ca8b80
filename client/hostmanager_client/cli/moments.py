"""Times on the command line: `2h` ago, `16:20`, `2026-11-28 16:20`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = r"([0-9]+(?:\.[0-9]+)?)\s*(min|[smhdw])"
_AGO = re.compile(rf"(?:{_PART}\s*)+(?:ago)?")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
_FORMS = "a duration such as 90s, 15m, 2h or 1d12h (ago), or a time such as 16:20 or '2026-11-28 16:20'"


def parse_moment(text: str, now: datetime) -> datetime:
    """Return the moment that a text means at the local time `now`; raise ValueError."""
    text = text.strip()
    if _AGO.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
        return _checked(text, lambda: now - timedelta(seconds=seconds))
    days = {"today": 0, "yesterday": 1}.get(text)
    if days is not None:
        return now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None) - timedelta(days=days)
    if clock := _CLOCK.fullmatch(text):
        hour, minute, second = (int(part or 0) for part in clock.groups())
        return _checked(text, lambda: now.replace(hour=hour, minute=minute, second=second, microsecond=0))
    return _checked(text, lambda: datetime.fromisoformat(text))


def _checked(text: str, moment: Any) -> datetime:
    try:
        found: datetime = moment()
        found.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"cannot read {text!r} as a time: give {_FORMS}") from error
    return found


def read_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Return the moment that an option names; raise BadParameter."""
    try:
        return None if value is None else parse_moment(value, datetime.now().astimezone())
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
