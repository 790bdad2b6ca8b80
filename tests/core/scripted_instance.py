"""One instance under the core, with a clock that the test advances."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core import plan
from hostmanager_server.core.actions import Action, Launch, Remove, Stop
from hostmanager_server.core.counters import next_deadline
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
from hostmanager_server.core.lifecycle import decide
from hostmanager_server.core.model import Instance, State, UnmetDependency, new_instance
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec, StartCondition, Target

from tests.core.instances import with_fields

PROCESS = ProcessSpec(("agent",))


class ScriptedInstance:
    """An instance that a test drives step by step.

    Each method changes one thing, decides, and returns the actions without the log entries.
    """

    def __init__(self, instance: Instance) -> None:
        self.now = Instant(1000.0, 1e9)
        self.instance = instance
        self.entries: list[LogEntry] = []
        self.removed = False

    def decide(self) -> list[Action]:
        decision = decide(self.instance, self.now)
        self.instance = decision.instance
        self.entries += [a for a in decision.actions if isinstance(a, LogEntry)]
        actions: list[Action] = [a for a in decision.actions if not isinstance(a, LogEntry)]
        self.removed = self.removed or any(isinstance(a, Remove) for a in actions)
        again = decide(self.instance, self.now)
        assert again.instance == self.instance, "a second decision changes the instance"
        assert self.removed or not again.actions, "a second decision has actions"
        return actions

    def post(self, *events: DriverEvent) -> list[Action]:
        for event in events:
            self.instance = fold(self.instance, event)
        return self.decide()

    def wait(self, seconds: float) -> list[Action]:
        self.now = self.now.plus(seconds)
        return self.decide()

    def state(self) -> State:
        """Return the state; as a call, because mypy assumes that an attribute stays the same."""
        return self.instance.standing.state

    def due(self) -> float | None:
        """Return the seconds until the next deadline, or None."""
        deadline = next_deadline(self.instance)
        return None if deadline is None else deadline.mono - self.now.mono

    def until_state_deadline(self) -> list[Action]:
        assert self.instance.standing.deadline is not None
        self.now = self.now.plus(max(0.0, self.instance.standing.deadline.mono - self.now.mono))
        return self.decide()

    # --- driver events

    def started(self) -> list[Action]:
        return self.post(Started(self.instance.run_key(), 4711, self.now))

    def ready(self) -> list[Action]:
        return self.post(Ready(self.instance.run_key(), self.now))

    def start_failed(self, why: str = "no such file") -> list[Action]:
        return self.post(StartFailed(self.instance.run_key(), why, self.now))

    def main_ends(self, code: int = 0) -> list[Action]:
        return self.post(Exited(self.instance.run_key(), ExitStatus(code=code), self.now))

    def gone(self) -> list[Action]:
        return self.post(Gone(self.instance.run_key(), self.now))

    def ends(self, code: int = 0) -> list[Action]:
        key = self.instance.run_key()
        return self.post(Exited(key, ExitStatus(code=code), self.now), Gone(key, self.now))

    # --- requests

    def target(self, target: Target) -> list[Action]:
        self.instance = plan.set_targets({"a": self.instance}, [TargetChange("a", target)])["a"]
        return self.decide()

    def restart(self) -> list[Action]:
        self.instance = plan.restart({"a": self.instance}, ["a"])["a"]
        return self.decide()

    def neighbours(self, *, waiting_for: tuple[str, ...] = (), held_by: tuple[str, ...] = ()) -> list[Action]:
        unmet = tuple(UnmetDependency(name, StartCondition.READY) for name in waiting_for)
        self.instance = with_fields(self.instance, waiting_for=unmet, held_by=held_by)
        return self.decide()

    # --- shorthands

    def up(self) -> ScriptedInstance:
        """Start the instance from down, until up."""
        (launch,) = self.decide()
        assert isinstance(launch, Launch)
        self.started()
        self.ready()
        assert self.instance.standing.state is State.UP
        return self

    def crash_and_return(self) -> None:
        """Crash the instance, wait for the restart, and report ready at once."""
        self.ends(1)
        assert self.instance.standing.state in (State.START_AT, State.WAIT_START)
        if self.instance.standing.state is State.START_AT:
            self.until_state_deadline()
        self.started()
        self.ready()

    def reasons(self) -> list[str]:
        return [entry.reason for entry in self.entries]


def make(target: Target | None = None, **fields: object) -> ScriptedInstance:
    """Return a ScriptedInstance with these fields in its spec."""
    spec = replace(InstanceSpec("a", "Agent", process=PROCESS), **fields)  # type: ignore[arg-type]  # the test's choice
    return ScriptedInstance(new_instance(spec, target))


def stops(actions: list[Action]) -> list[tuple[int, bool]]:
    """Return the signal and the whole-tree flag of each action; all actions must be Stops."""
    assert all(isinstance(a, Stop) for a in actions)
    return [(a.signum, a.whole_tree) for a in actions if isinstance(a, Stop)]
