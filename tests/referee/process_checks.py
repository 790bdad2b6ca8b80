"""Checks of what runs: once, wholly, when it is wanted, and for no other reason than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import DaemonLife
from tests.referee.forger import FORGED
from tests.referee.ground import Agent, Ground
from tests.referee.lives import Life
from tests.referee.looking import NOTHING_RUNS, PATIENCE, Evidence, eventually, list_instances, state_of
from tests.referee.model import DOWN, UP, Model
from tests.referee.verdict import Invariant, Violation

# An agent is alive, and writes, before its daemon has said so: by how much, in s, on a machine that is busy.
PUBLISHED_WITHIN = 5.0

_TARGETS = {pb.TARGET_STATE_UP: UP, pb.TARGET_STATE_DOWN: DOWN}


@dataclass(slots=True)
class Stance:
    """How far an instance is from where it should be; empty: it is there."""

    reasons: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not self.reasons


class Running:
    """I1, I2, I3, I8 and I9."""

    def __init__(self, ground: Ground, model: Model, evidence: Evidence) -> None:
        self._ground = ground
        self._model = model
        self.evidence = evidence

    def convergence(self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> None:
        """Every instance comes to where its target says, with nothing left of what was before."""
        self._targets(daemon, stub)
        stance = Stance({"": "nobody has looked yet"})

        def converged() -> bool:
            nonlocal stance
            stance = self._stance(daemon, stub)
            return bool(stance)

        if not eventually(converged, PATIENCE):
            instance, why = next(iter(stance.reasons.items()))
            others = [f"{i}: {w}" for i, w in list(stance.reasons.items())[1:]]
            text = f"after {PATIENCE:g} s {instance} {why}"
            raise Violation(Invariant.I3, text, [*others, *self.evidence.of(instance)])

    def _targets(self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> None:
        for listed in list_instances(daemon, stub).values():
            agent = self._agent(listed.instance_id)
            if listed.instance_id == FORGED:
                raise Violation(Invariant.I7, "an instance is listed that only a forged record tells of")
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
        listed = list_instances(daemon, stub)
        self._ground.journals.read()
        marked = proc.marked(self._ground.folder)
        stance = Stance()
        for agent in self._ground.agents:
            said = listed.get(agent.instance)
            if said is None and not agent.guest:
                stance.reasons[agent.instance] = "is not listed"
                continue
            alive = self._ground.journals.alive(agent.instance)
            wanted = said is not None and said.target_state == pb.TARGET_STATE_UP
            if said is None or said.next_action in NOTHING_RUNS:
                self._must_be_gone(agent, asked - PUBLISHED_WITHIN if wanted else asked, alive)
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
            return f"should be up, and does not run; it is said to be {state_of(said)}: {said.message}"
        if said.next_action != pb.NEXT_ACTION_UP:
            return f"runs, and is said to be {state_of(said)}: {said.message}"
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
            return f"is down, and is said to be {state_of(said)}: {said.message}"
        return ""

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
        journals.read()  # what those who were just found dead said last
        while journals.deaths:
            self._must_be_justified(journals.deaths.popleft())

    def _must_be_justified(self, life: Life) -> None:
        dead = life.ended if life.ended is not None else proc.now()
        if (
            life.left
            or life.killed is not None
            or self._model.may_have_ended(life.instance, life.name.started, dead)
        ):
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

        if not eventually(lambda: not silent(), PATIENCE):
            life = silent()[0]
            text = f"{life} lives and does not beat any more"
            raise Violation(Invariant.I9, text, self.evidence.of(life.instance))

    def _agent(self, instance: str) -> Agent | None:
        return next((agent for agent in self._ground.agents if agent.instance == instance), None)
