"""What the referee looks at, and how it tells that an invariant does not hold."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import DaemonLife, DiedError
from tests.referee.ground import Agent, Ground
from tests.referee.lives import Life
from tests.referee.model import DOWN, UP, Model
from tests.referee.verdict import Invariant, Violation
from tests.referee.watchers import EventWatcher, Listed, Said, StatusWatcher

T = TypeVar("T")

_LINE = re.compile(r"(\d+\.\d+) (\d+) \.+")  # of a writer's output

# How long what must come about may take on a busy machine, s. Nothing waits this long when all is well.
PATIENCE = 30.0
_LOOK = 0.01  # s between two looks

_TARGETS = {pb.TARGET_STATE_UP: UP, pb.TARGET_STATE_DOWN: DOWN}
# What is said of an instance of which nothing runs.
_NOTHING_RUNS = (pb.NEXT_ACTION_DOWN, pb.NEXT_ACTION_START_AT, pb.NEXT_ACTION_START)


def eventually(condition: Callable[[], T], patience: float = PATIENCE) -> T:
    """The condition's value as soon as it is true, or its last one when it never was."""
    deadline = proc.now() + patience
    pause = threading.Event()
    while True:
        value = condition()
        if value or proc.now() > deadline:
            return value
        pause.wait(_LOOK)


@dataclass(slots=True)
class Evidence:
    """Where what is told about a violation comes from."""

    ground: Ground
    daemons: list[DaemonLife]

    def of(self, instance: str, more: Iterable[str] = ()) -> tuple[str, ...]:
        lines = [*self.ground.journals.evidence(instance), *more]
        for daemon in self.daemons[-2:]:
            lines += daemon.log_tail()
        return tuple(lines)


@dataclass(slots=True)
class Stance:
    """How far an instance is from where it should be; empty: it is there."""

    reasons: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not self.reasons


class Checks:
    """The checks of a match. All of them look at a daemon that lives and of which nobody asks anything."""

    def __init__(self, ground: Ground, model: Model, daemons: list[DaemonLife]) -> None:
        self._ground = ground
        self._model = model
        self._daemons = daemons
        self.evidence = Evidence(ground, daemons)
        self._by_pid: dict[int, DaemonLife] = {}
        self.patience = PATIENCE

    # --- I1, I2, I3, I8: what runs is what is wanted

    def convergence(self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> None:
        """Every instance comes to where its target says, with nothing left of what was before."""
        self._targets(daemon, stub)
        stance = Stance({"": "nobody has looked yet"})

        def converged() -> bool:
            nonlocal stance
            stance = self._stance(daemon, stub)
            return bool(stance)

        if not eventually(converged, self.patience):
            instance, why = next(iter(stance.reasons.items()))
            others = [f"{i}: {w}" for i, w in list(stance.reasons.items())[1:]]
            text = f"after {self.patience:g} s {instance} {why}"
            raise Violation(Invariant.I3, text, [*others, *self.evidence.of(instance)])

    def _targets(self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> None:
        for listed in self._list(daemon, stub).values():
            agent = self._agent(listed.instance_id)
            if agent is None or agent.guest:
                continue
            target = _TARGETS.get(listed.target_state, "neither up nor down")
            possible = self._model.possible(agent.instance)
            if target not in possible:
                wanted = " or ".join(sorted(possible))
                text = f"the target of {agent.instance} is {target}, and {wanted} was acknowledged"
                raise Violation(Invariant.I2, text, self.evidence.of(agent.instance))
            self._model.observed(agent.instance, target)

    def _stance(self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> Stance:
        asked = proc.now()
        listed = self._list(daemon, stub)
        self._ground.journals.read()
        marked = proc.marked(self._ground.folder)
        stance = Stance()
        for agent in self._ground.agents:
            said = listed.get(agent.instance)
            if said is None and not agent.guest:
                stance.reasons[agent.instance] = "is not listed"
                continue
            alive = self._ground.journals.alive(agent.instance)
            if said is None or said.next_action in _NOTHING_RUNS:
                self._must_be_gone(agent, asked, alive)
            wanted = said is not None and said.target_state == pb.TARGET_STATE_UP
            why = (
                self._why_not_up(agent, said, alive, marked.get(agent.instance, []))
                if said is not None and wanted
                else self._why_not_down(agent, said, alive, marked.get(agent.instance, []))
            )
            if why:
                stance.reasons[agent.instance] = why
        return stance

    def _must_be_gone(self, agent: Agent, asked: float, alive: Sequence[Life]) -> None:
        for life in alive:
            if life.born < asked:
                text = f"{agent.instance} is said to be down, and {life} lives"
                raise Violation(Invariant.I8, text, self.evidence.of(agent.instance))

    def _why_not_up(
        self, agent: Agent, said: pb.ManagedInstance, alive: Sequence[Life], marked: Sequence[int]
    ) -> str:
        leaders = [life for life in alive if life.leads]
        if len(leaders) > 1:
            text = f"{agent.instance} runs more than once: {', '.join(map(str, leaders))}"
            raise Violation(Invariant.I1, text, self.evidence.of(agent.instance))
        if not leaders:
            return f"should be up, and does not run; it is said to be {_state(said)}: {said.message}"
        if said.next_action != pb.NEXT_ACTION_UP:
            return f"runs, and is said to be {_state(said)}: {said.message}"
        (leader,) = leaders
        if said.process.pid != leader.name.pid:
            return f"runs as {leader}, and is said to have pid {said.process.pid}"
        strange = {life for life in alive if life.run != leader.run}
        if strange:
            return f"has something left of an earlier run: {', '.join(map(str, strange))}"
        unknown = set(marked) - {life.name.pid for life in alive}
        if unknown:
            return f"has processes that are not of its run: {sorted(unknown)}"
        return ""

    def _why_not_down(
        self, agent: Agent, said: pb.ManagedInstance | None, alive: Sequence[Life], marked: Sequence[int]
    ) -> str:
        if alive:
            return f"should be down, and {', '.join(map(str, alive))} lives"
        if marked:
            return f"should be down, and {marked} live"
        if said is not None and said.next_action != pb.NEXT_ACTION_DOWN:
            return f"is down, and is said to be {_state(said)}: {said.message}"
        return ""

    # --- I2, I9: nothing was started or ended that nobody asked for

    def births_and_deaths(self) -> None:
        """Whatever began or ended since the last time had a reason."""
        journals = self._ground.journals
        journals.read()
        while journals.births:
            life = journals.births.popleft()
            if life.leads and self._model.was_down(life.instance, life.name.started):
                text = f"{life} was started, although it was acknowledged that {life.instance} is to be down"
                raise Violation(Invariant.I2, text, self.evidence.of(life.instance))
        for agent in self._ground.agents:
            journals.alive(agent.instance)
        while journals.deaths:
            self._must_be_justified(journals.deaths.popleft())

    def _must_be_justified(self, life: Life) -> None:
        dead = life.ended if life.ended is not None else proc.now()
        if life.left or life.killed is not None or self._model.may_have_ended(life.instance, life.born, dead):
            return
        if not life.leads:
            leader = self._ground.journals.leader_of(life)
            if leader is None or not leader.alive():
                return
        how = "by a signal" if life.ended is not None else "without a word"
        text = f"{life} ended {how}, and nobody had asked for it"
        raise Violation(Invariant.I9, text, self.evidence.of(life.instance))

    def alive_and_well(self) -> None:
        """Whoever lives beats."""
        since = proc.now()
        journals = self._ground.journals

        def silent() -> list[Life]:
            journals.read()
            return [
                life for agent in self._ground.agents for life in journals.alive(agent.instance)
                if life.last < since
            ]  # fmt: skip

        if not eventually(lambda: not silent(), self.patience):
            life = silent()[0]
            text = f"{life} lives and does not beat any more"
            raise Violation(Invariant.I9, text, self.evidence.of(life.instance))

    def output(self, logs: dict[str, bytes]) -> None:
        """No line of a writer is lost, doubled or out of place. `logs`: all its output, by instance."""
        for instance, data in logs.items():
            counts: Counter[str] = Counter()
            last = ""
            for line in data.decode().splitlines():
                written = _LINE.fullmatch(line)
                if written is None:  # of the interpreter, when a stop comes before the agent listens
                    continue
                who, number = written.groups()
                if who != last and counts[who]:
                    raise Violation(Invariant.I9, f"lines of {instance} {who} are torn apart at {number}")
                counts[who] += 1
                if int(number) != counts[who]:
                    text = f"output of {instance} {who}: line {number} stands where {counts[who]} should"
                    raise Violation(Invariant.I9, text)
                last = who
            for name, life in self._ground.journals.lives.items():
                if life.instance == instance and counts[str(name)] < life.lines:
                    text = f"{life} wrote {life.lines} lines, and {counts[str(name)]} are there"
                    raise Violation(Invariant.I9, text, self.evidence.of(instance))

    # --- I4: what watchers were told

    def told(self, watchers: Iterable[StatusWatcher]) -> None:
        """Nothing false was said of what nobody had touched."""
        self._by_pid.update((daemon.pid, daemon) for daemon in self._daemons)
        for watcher in watchers:
            watcher.must_be_content()
            while watcher.said:
                said = watcher.said.popleft()
                daemon = self._by_pid.get(said.daemon)
                if daemon is None:
                    text = f"{watcher.name} heard of a daemon with pid {said.daemon}, which was none"
                    raise Violation(Invariant.I4, text, watcher.evidence())
                match said:
                    case Listed():
                        self._nobody_forgotten(watcher, said)
                    case Said():
                        self._not_false(watcher, said, daemon)

    def _nobody_forgotten(self, watcher: StatusWatcher, listed: Listed) -> None:
        for agent in self._ground.agents:
            if not agent.guest and agent.instance not in listed.instances:
                text = f"{watcher.name} was sent a snapshot without {agent.instance}"
                raise Violation(Invariant.I4, text, [*watcher.evidence(), *self.evidence.of(agent.instance)])

    def _not_false(self, watcher: StatusWatcher, said: Said, daemon: DaemonLife) -> None:
        text = ""
        if said.state == pb.NEXT_ACTION_UP and said.pid:
            lives = [
                life for life in self._ground.journals.by_pid(said.pid) if life.instance == said.instance
            ]
            # None is known when it was ended before it came to write anything.
            if lives and all(life.dead_before(daemon.started) for life in lives):
                text = f"is up with pid {said.pid}, which was dead before that daemon started"
        elif said.state in _NOTHING_RUNS:
            for life in self._ground.journals.standing(said.instance, daemon.started, said.heard):
                if not self._model.may_have_ended(said.instance, life.born, said.heard):
                    text = f"is down, while {life} lived on"
        if text:
            text = f"{watcher.name} was told that {said.instance} {text}"
            raise Violation(Invariant.I4, text, [*watcher.evidence(), *self.evidence.of(said.instance)])

    def agreement(
        self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub, watchers: Sequence[StatusWatcher]
    ) -> None:
        """What a watcher has put together is what there is."""
        differences = ["nobody has looked yet"]

        def agreed() -> bool:
            listed = self._list(daemon, stub)
            differences[:] = [
                difference for watcher in watchers if (difference := _difference(watcher, daemon, listed))
            ]
            for watcher in watchers:
                watcher.must_be_content()
            return not differences

        if not eventually(agreed, self.patience):
            evidence = [line for watcher in watchers for line in watcher.evidence()]
            raise Violation(Invariant.I4, f"after {self.patience:g} s {differences[0]}", evidence)

    def exits_told(self, watchers: Sequence[EventWatcher], killed: Sequence[Life]) -> None:
        """Every agent that was killed is in the event log with its exit."""
        missing: list[Life] = []

        def told() -> bool:
            for watcher in watchers:
                watcher.must_be_content()
            heard = {(e.instance, e.pid) for watcher in watchers for e in list(watcher.exits)}
            missing[:] = [k for k in killed if k.leads and (k.instance, k.name.pid) not in heard]
            return not missing

        if not eventually(told, self.patience):
            more = [line for watcher in watchers for line in watcher.evidence()]
            text = f"no event tells of the end of {missing[0]}"
            raise Violation(Invariant.I3, text, self.evidence.of(missing[0].instance, more))

    # --- I5, I6, I7: the daemon's own household

    def household(self, daemon: DaemonLife) -> None:
        """No zombies, no signals to strangers."""
        self._ground.check_strangers()
        if not eventually(lambda: not proc.zombies_of(daemon.pid), self.patience):
            zombies = proc.zombies_of(daemon.pid)
            raise Violation(Invariant.I5, f"the daemon does not reap {zombies}", daemon.log_tail())

    def _agent(self, instance: str) -> Agent | None:
        return next((agent for agent in self._ground.agents if agent.instance == instance), None)

    @staticmethod
    def _list(daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> dict[str, pb.ManagedInstance]:
        try:
            reply = stub.ListInstances(pb.ListInstancesRequest(), timeout=PATIENCE)
        except grpc.RpcError as error:
            daemon.must_live()
            raise DiedError(f"the daemon does not answer: {error.code().name}") from error
        return {i.instance_id: i for i in reply.instances}


def _difference(watcher: StatusWatcher, daemon: DaemonLife, listed: dict[str, pb.ManagedInstance]) -> str:
    """Where a watcher's view differs from what is listed; empty: nowhere."""
    if watcher.daemon_pid != daemon.pid:
        return f"{watcher.name} still sees daemon {watcher.daemon_pid}"
    view = dict(watcher.view)
    if view.keys() != listed.keys():
        return f"{watcher.name} knows {sorted(view)}, and there are {sorted(listed)}"
    for instance, there in listed.items():
        seen = view[instance]
        if (seen.revision, seen.next_action, seen.process.pid, seen.target_state) != (
            there.revision, there.next_action, there.process.pid, there.target_state,
        ):  # fmt: skip
            return (
                f"{watcher.name} sees {instance} {_state(seen)}, pid {seen.process.pid}, at {seen.revision}, "
                f"and it is {_state(there)}, pid {there.process.pid}, at {there.revision}"
            )
    return ""


def _state(said: pb.ManagedInstance) -> str:
    return pb.NextAction.Name(said.next_action).removeprefix("NEXT_ACTION_").lower()
