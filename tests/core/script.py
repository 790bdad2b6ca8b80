"""A hand-driven instance: the core with a clock that the test advances."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core import plan
from hostmanager_server.core.actions import Action, Launch, Remove, Stop
from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.events import (
    DriverEvent,
    Exited,
    ExitStatus,
    Gone,
    Instant,
    Ready,
    Started,
    StartFailed,
)
from hostmanager_server.core.facts import fold
from hostmanager_server.core.lifecycle import decide, next_deadline
from hostmanager_server.core.model import Instance, State, new_instance
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec, Target

from tests.core.instances import with_fields

PROCESS = ProcessSpec(("agent",))


class Script:
    """One instance; each method does one thing to it, decides, and returns the actions except the notes."""

    def __init__(self, instance: Instance) -> None:
        self.now = Instant(1000.0, 1e9)
        self.i = instance
        self.notes: list[LogEntry] = []
        self.removed = False

    def decide(self) -> list[Action]:
        decision = decide(self.i, self.now)
        self.i = decision.instance
        self.notes += [a for a in decision.actions if isinstance(a, LogEntry)]
        actions: list[Action] = [a for a in decision.actions if not isinstance(a, LogEntry)]
        self.removed = self.removed or any(isinstance(a, Remove) for a in actions)
        again = decide(self.i, self.now)
        assert again.instance == self.i, "deciding twice changes something the second time"
        assert self.removed or not again.actions, "deciding twice does something the second time"
        return actions

    def see(self, *events: DriverEvent) -> list[Action]:
        for event in events:
            self.i = fold(self.i, event)
        return self.decide()

    def wait(self, seconds: float) -> list[Action]:
        self.now = self.now.plus(seconds)
        return self.decide()

    def state(self) -> State:
        """A call, so that a type checker does not take it to be what it was before."""
        return self.i.standing.state

    def due(self) -> float | None:
        """Seconds until the next deadline."""
        deadline = next_deadline(self.i)
        return None if deadline is None else deadline.mono - self.now.mono

    def until_state_deadline(self) -> list[Action]:
        assert self.i.standing.deadline is not None
        self.now = self.now.plus(max(0.0, self.i.standing.deadline.mono - self.now.mono))
        return self.decide()

    # --- what a driver tells

    def started(self) -> list[Action]:
        return self.see(Started(self.i.run_key(), 4711, self.now))

    def ready(self) -> list[Action]:
        return self.see(Ready(self.i.run_key(), self.now))

    def start_failed(self, why: str = "no such file") -> list[Action]:
        return self.see(StartFailed(self.i.run_key(), why, self.now))

    def main_ends(self, code: int = 0) -> list[Action]:
        return self.see(Exited(self.i.run_key(), ExitStatus(code=code), self.now))

    def gone(self) -> list[Action]:
        return self.see(Gone(self.i.run_key(), self.now))

    def ends(self, code: int = 0) -> list[Action]:
        key = self.i.run_key()
        return self.see(Exited(key, ExitStatus(code=code), self.now), Gone(key, self.now))

    # --- what an operator asks

    def target(self, target: Target) -> list[Action]:
        self.i = plan.set_targets({"a": self.i}, [TargetChange("a", target)])["a"]
        return self.decide()

    def restart(self) -> list[Action]:
        self.i = plan.restart({"a": self.i}, ["a"])["a"]
        return self.decide()

    def facts(self, *, waiting_for: tuple[str, ...] = (), held_by: tuple[str, ...] = ()) -> list[Action]:
        self.i = with_fields(self.i, waiting_for=waiting_for, held_by=held_by)
        return self.decide()

    # --- shorthands

    def up(self) -> Script:
        """Bring it up from down."""
        (launch,) = self.decide()
        assert isinstance(launch, Launch)
        self.started()
        self.ready()
        assert self.i.standing.state is State.UP
        return self

    def crash_and_return(self) -> None:
        """Crash, wait for the restart, be up again at once."""
        self.ends(1)
        assert self.i.standing.state in (State.START_AT, State.WAIT_START)
        if self.i.standing.state is State.START_AT:
            self.until_state_deadline()
        self.started()
        self.ready()

    def reasons(self) -> list[str]:
        return [note.reason for note in self.notes]


def make(target: Target | None = None, **fields: object) -> Script:
    """A Script on an instance whose spec has these fields."""
    spec = replace(InstanceSpec("a", "Agent", process=PROCESS), **fields)  # type: ignore[arg-type]  # the test's choice
    return Script(new_instance(spec, target))


def stops(actions: list[Action]) -> list[tuple[int, bool]]:
    """Signal, and whether to the whole tree, of each action, all of which are to be Stops."""
    assert all(isinstance(a, Stop) for a in actions)
    return [(a.signum, a.whole_tree) for a in actions if isinstance(a, Stop)]
