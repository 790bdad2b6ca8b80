"""The stability of an instance, compared with OCS."""

from __future__ import annotations

import pytest
from hostmanager_server.core.events import Instant
from hostmanager_server.core.stability import MEMORY, WINDOW, remember, stability
from hypothesis import given
from hypothesis import strategies as st


def instants(*moments: float) -> tuple[Instant, ...]:
    return tuple(Instant(m, 1e9 + m) for m in moments)


def as_ocs(times: list[float], now: float, window: float = 120.0) -> float:
    """Return stability_factor of ocs/agents/host_manager/drivers.py at a given time."""
    if not times:
        return 1.0
    times = [t for t in times[-200:-1] if t >= now - window] + times[-1:]
    return max(1 - sum(5.0 / (now - t) for t in times), 0.0)


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ([], 1.0),
        ([10.0], 0.5),
        ([50.0], 0.9),
        ([100.0, 50.0], 0.85),
        ([5.0], 0.0),
        ([0.0], 0.0),
        ([10.0, 10.0], 0.0),
        ([8.0, 8.0], 0.0),
        ([119.0], 1 - 5 / 119),
        ([120.0], 1.0),
        ([1000.0], 1.0),
    ],
)
def test_each_failure_costs_five_seconds_over_its_age(ages: list[float], expected: float) -> None:
    now = 5000.0
    failures = instants(*(now - age for age in ages))
    assert stability(failures, Instant(now, 0.0)) == pytest.approx(expected)


def test_a_single_old_failure_does_not_count_unlike_in_ocs() -> None:
    assert as_ocs([0.0], 500.0) == pytest.approx(0.99)
    assert stability(instants(0.0), Instant(500.0, 0.0)) == 1.0


@given(st.lists(st.floats(0.01, 119.9), max_size=60))
def test_within_the_window_the_stability_equals_that_of_ocs(ages: list[float]) -> None:
    now = 1000.0
    moments = sorted(now - age for age in ages)
    expected = as_ocs(moments, now)
    failures = remember(instants(*moments), Instant(now, 0.0))
    assert stability(failures, Instant(now, 0.0)) == pytest.approx(expected)


@given(st.lists(st.floats(0.0, 130.0), max_size=60), st.floats(0.0, 200.0))
def test_the_stability_stays_within_0_and_1_and_only_recovers_without_failures(
    ages: list[float], later: float
) -> None:
    failures = instants(*sorted(1000.0 - age for age in ages))
    before = stability(failures, Instant(1000.0, 0.0))
    after = stability(failures, Instant(1000.0 + later, 0.0))
    assert 0.0 <= before <= after <= 1.0


@given(st.lists(st.floats(0.0, 200.0), max_size=200))
def test_forgotten_failures_make_no_difference(ages: list[float]) -> None:
    now = Instant(1000.0, 0.0)
    failures = instants(*sorted(1000.0 - age for age in ages))
    kept = remember(failures, now)
    assert len(kept) <= MEMORY
    assert stability(kept, now) == pytest.approx(stability(failures, now))


@given(st.floats(0.0, 1e9, allow_subnormal=False))
def test_a_failure_stops_counting_at_its_deadline(moment: float) -> None:
    (failure,) = instants(moment)
    assert remember((failure,), failure.plus(WINDOW)) == ()
    assert stability((failure,), failure.plus(WINDOW)) == 1.0
