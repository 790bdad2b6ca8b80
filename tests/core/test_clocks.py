"""Wrong clocks: somebody sets the wall clock, or the machine was suspended."""

from __future__ import annotations

from hostmanager_server.core.actions import Launch
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import State
from hostmanager_server.core.stability import stability
from hypothesis import given
from hypothesis import strategies as st

from tests.core.script import make

jumps = st.lists(st.floats(-1e8, 1e8), min_size=6, max_size=6)


def a_life(wall_jumps: list[float]) -> list[tuple[State, float | None, int, float]]:
    """Six crashes; before each the wall clock jumps by so many seconds."""
    script = make().up()
    seen = []
    for jump in wall_jumps:
        script.now = Instant(script.now.mono, script.now.wall + jump)
        script.crash_and_return()
        due = script.due()
        seen.append(
            (
                script.state(),
                due,
                script.i.standing.failures,
                stability(script.i.standing.fail_times, script.now),
            )
        )
        script.wait(1.0)
    return seen


@given(jumps)
def test_what_is_decided_does_not_depend_on_the_wall_clock(wall_jumps: list[float]) -> None:
    assert a_life(wall_jumps) == a_life([0.0] * 6)


def test_after_a_suspension_what_came_due_meanwhile_is_done_once() -> None:
    script = make().up()
    for _ in range(8):
        script.crash_and_return()
    script.ends(1)
    assert script.state() is State.START_AT
    launches = [action for action in script.wait(100_000.0) if isinstance(action, Launch)]
    assert len(launches) == 1
    assert stability(script.i.standing.fail_times, script.now) == 1.0  # the time away counts
    assert script.wait(0.0) == []
