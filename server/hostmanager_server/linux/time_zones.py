"""Time zones by name, and that of this machine."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

LOCAL = "/etc/localtime"


class TimeZoneError(Exception):
    """A time zone that this machine does not know; the text says what to do."""


@functools.lru_cache(maxsize=64)
def load_zone(name: str) -> ZoneInfo:
    """Return a time zone by its name; an empty name stands for that of this machine (TZ, else LOCAL).

    Raises TimeZoneError.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    key = name or os.environ.get("TZ", "").removeprefix(":")
    try:
        if key:
            return ZoneInfo(key)
        with open(LOCAL, "rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except FileNotFoundError:
        return ZoneInfo("UTC")  # as the C library does without the file
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise TimeZoneError(
            f"there is no time zone {key or LOCAL!r} on this machine; write a name such as Europe/Berlin, "
            "and install tzdata if the name is right"
        ) from error
