"""The stability of an instance: recent failures as a number between 0 and 1."""

from __future__ import annotations

from hostmanager_server.core.events import Instant

# From OCS (ocs/agents/host_manager/drivers.py, stability_factor): a failure t s ago costs 5/t, within 120 s.
WINDOW = 120.0
COST = 5.0
# A crash loop without backoff fails hundreds of times within the window. The limit changes no result: 24
# failures within the window already cost 24 * 5/120 = 1 or more, so the stability is 0.
MEMORY = 50


def remember(fail_times: tuple[Instant, ...], now: Instant) -> tuple[Instant, ...]:
    """Return the failures within the window, oldest first, at most MEMORY."""
    if not fail_times or (len(fail_times) <= MEMORY and now.mono < fail_times[0].mono + WINDOW):
        return fail_times
    return tuple(t for t in fail_times[-MEMORY:] if now.mono < t.mono + WINDOW)


def recovers(fail_times: tuple[Instant, ...], now: Instant) -> bool:
    """Return whether the stability changes with time: a failure lies within the window."""
    return any(now.mono < t.plus(WINDOW).mono for t in fail_times)


def stability(fail_times: tuple[Instant, ...], now: Instant) -> float:
    """Return the stability: 1.0 minus the costs of recent failures, at least 0.0.

    A failure t s ago costs COST/t within WINDOW, and nothing after.
    """
    cost = 0.0
    for t in fail_times:
        if now.mono >= t.plus(WINDOW).mono:
            continue
        age = now.mono - t.mono
        if age <= COST:
            return 0.0
        cost += COST / age
    return max(0.0, 1.0 - cost)
