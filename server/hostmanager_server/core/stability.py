"""Stability: how a history of failures reads as one number between 0 and 1."""

from __future__ import annotations

from hostmanager_server.core.events import Instant

# OCS (ocs/agents/host_manager/drivers.py, stability_factor): each failure t s ago costs 5/t, within 120 s.
WINDOW = 120.0
COST = 5.0
# A crash loop without backoff could fail hundreds of times within the window; beyond this many the number
# is 0 all the same, as 24 failures within the window cost at least 24 * 5/120 = 1.
MEMORY = 50


def remember(fail_times: tuple[Instant, ...], now: Instant) -> tuple[Instant, ...]:
    """The failures still within the window, oldest first, at most MEMORY of them."""
    recent = tuple(t for t in fail_times if now.mono < t.plus(WINDOW).mono)
    return recent[-MEMORY:] if len(recent) > MEMORY else recent


def stability(fail_times: tuple[Instant, ...], now: Instant) -> float:
    """1.0 without failures; each one `t` seconds ago within WINDOW costs COST/t; never below 0.0."""
    cost = 0.0
    for t in fail_times:
        if now.mono >= t.plus(WINDOW).mono:
            continue
        age = now.mono - t.mono
        if age <= COST:
            return 0.0
        cost += COST / age
    return max(0.0, 1.0 - cost)
