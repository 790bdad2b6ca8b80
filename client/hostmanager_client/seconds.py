"""Numbers of seconds: checked, and in words."""

from __future__ import annotations

from hostmanager_client.errors import InvalidRequest

LONGEST_TIMEOUT = 365 * 86_400.0  # s; gRPC takes what is much longer for a deadline that has passed


def in_seconds(seconds: float) -> str:
    """Return a number of seconds for a message, with every digit that tells it from another one."""
    return f"{repr(float(seconds)).removesuffix('.0')} s"


def check_timeout(seconds: float | None) -> float | None:
    """Return the timeout. Raises InvalidRequest when it cannot be one."""
    if seconds is not None and not 0 < seconds <= LONGEST_TIMEOUT:  # NaN included
        raise InvalidRequest(
            f"cannot use {in_seconds(seconds)} as timeout: it is more than 0 s, and at most "
            f"{in_seconds(LONGEST_TIMEOUT)}; leave it out for the default"
        )
    return seconds
