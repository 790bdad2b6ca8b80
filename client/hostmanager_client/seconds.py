"""Checks of timeouts, and seconds as text."""

from __future__ import annotations

from hostmanager_client.errors import InvalidRequest

LONGEST_TIMEOUT = 365 * 86_400.0  # s; gRPC mistakes a much longer timeout for an expired deadline


def in_seconds(seconds: float) -> str:
    """Return a number of seconds as text for a message, with all significant digits."""
    return f"{repr(float(seconds)).removesuffix('.0')} s"


def check_timeout(seconds: float | None) -> float | None:
    """Return the timeout; raise InvalidRequest if out of range."""
    if seconds is not None and not 0 < seconds <= LONGEST_TIMEOUT:  # NaN included
        raise InvalidRequest(
            f"cannot use {in_seconds(seconds)} as timeout: the range is more than 0 s to "
            f"{in_seconds(LONGEST_TIMEOUT)}; omit the timeout for the default"
        )
    return seconds
