"""Wrong clocks: a changed wall clock, and a suspended machine."""

from __future__ import annotations

from hostmanager_server.core.actions import Launch
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import State
from hostmanager_server.core.stability import stability
from hypothesis import given
from hypothesis import strategies as st

from tests.core.scripted_instance import make

jumps = st.lists(st.floats(-1e8, 1e8), min_size=6, max_size=6)


def crash_six_times(wall_jumps: list[float]) -> list[tuple[State, float | None, int, float]]:
    """Return the observations of six crashes, each after a jump of the wall clock (s)."""
    script = make().up()
    observed = []
    for jump in wall_jumps:
        script.now = Instant(script.now.mono, script.now.wall + jump)
        script.crash_and_return()
        due = script.due()
        observed.append(
            (
                script.state(),
                due,
                script.instance.standing.failures,
                stability(script.instance.standing.fail_times, script.now),
            )
        )
        script.wait(1.0)
    return observed


@given(jumps)
def test_decisions_do_not_depend_on_the_wall_clock(wall_jumps: list[float]) -> None:
    assert crash_six_times(wall_jumps) == crash_six_times([0.0] * 6)


def test_a_deadline_during_a_suspension_leads_to_one_launch_afterwards() -> None:
    script = make().up()
    for _ in range(8):
        script.crash_and_return()
    script.ends(1)
    assert script.state() is State.START_AT
    launches = [action for action in script.wait(100_000.0) if isinstance(action, Launch)]
    assert len(launches) == 1
    assert stability(script.instance.standing.fail_times, script.now) == 1.0  # the suspended time counts
    assert script.wait(0.0) == []
