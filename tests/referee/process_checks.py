"""Checks of processes: each instance runs once, completely, and only when its target is up."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import DaemonProcess
from tests.referee.host import Agent, AgentKind, Host
from tests.referee.invariants import Breach, Invariant
from tests.referee.journals import AgentProcess
from tests.referee.polling import NOTHING_RUNS, PATIENCE, Evidence, list_instances, poll, state_of
from tests.referee.record_forger import FORGED
from tests.referee.target_model import DOWN, UP, Targets

# The longest time, in s, from the start of an agent to the published state, on a busy machine.
PUBLISHED_WITHIN = 5.0

_TARGETS = {pb.TARGET_STATE_UP: UP, pb.TARGET_STATE_DOWN: DOWN}


class ProcessChecks:
    """Checks of the invariants I1, I2, I3, I8 and I9."""

    def __init__(self, host: Host, model: Targets, evidence: Evidence) -> None:
        self._host = host
        self._model = model
        self.evidence = evidence

    def check_convergence(self, daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub) -> None:
        """Wait for every instance to reach its target, with no process of an earlier run.

        A crasher need not be at its target together with the others. Raises Breach.
        """
        self._check_targets(daemon, stub)
        deviations = {"": "not checked yet"}
        crashers = {agent.instance for agent in self._host.agents if agent.kind is AgentKind.CRASHER}
        converged_once: set[str] = set()

        def converged() -> bool:
            nonlocal deviations
            found = self._find_deviations(daemon, stub)
            converged_once.update(crashers.difference(found))
            deviations = {instance: why for instance, why in found.items() if instance not in converged_once}
            return not deviations

        if not poll(converged, PATIENCE):
            instance, why = next(iter(deviations.items()))
            others = [f"{i}: {w}" for i, w in list(deviations.items())[1:]]
            text = f"after {PATIENCE:g} s {instance} {why}"
            raise Breach(Invariant.I3, text, [*others, *self.evidence.of(instance)])

    def _check_targets(self, daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub) -> None:
        for listed in list_instances(daemon, stub).values():
            agent = self._agent(listed.instance_id)
            if listed.instance_id == FORGED:
                raise Breach(Invariant.I7, "the daemon lists the instance of a forged record")
            if agent is None or agent.guest:
                continue
            target = _TARGETS.get(listed.target_state, "neither up nor down")
            possible = self._model.possible(agent.instance)
            if target not in possible:
                wanted = " or ".join(sorted(possible))
                text = f"the target of {agent.instance} is {target}, but {wanted} was acknowledged"
                raise Breach(Invariant.I2, text, self.evidence.of(agent.instance))
            self._model.observe(agent.instance, target)

    def _find_deviations(self, daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub) -> dict[str, str]:
        """Return by instance how its processes deviate from the target."""
        before = proc.now()
        instances = list_instances(daemon, stub)
        self._host.journals.read()
        marked = proc.marked(self._host.folder)
        deviations: dict[str, str] = {}
        for agent in self._host.agents:
            listed = instances.get(agent.instance)
            if listed is None and not agent.guest:
                deviations[agent.instance] = "is not listed"
                continue
            alive = self._host.journals.alive(agent.instance)
            wanted = listed is not None and listed.target_state == pb.TARGET_STATE_UP
            if listed is None or listed.next_action in NOTHING_RUNS:
                self._check_gone(agent, before - PUBLISHED_WITHIN if wanted else before, alive)
            why = (
                self._why_not_up(agent, listed, alive, marked.get(agent.instance, []))
                if listed is not None and wanted
                else self._why_not_down(agent, listed, alive, marked.get(agent.instance, []))
            )
            if why:
                deviations[agent.instance] = why
        return deviations

    def _check_gone(self, agent: Agent, before: float, alive: Sequence[AgentProcess]) -> None:
        for process in alive:
            if process.started < before:
                text = f"{agent.instance} is published as down, but {process} runs"
                raise Breach(Invariant.I8, text, self.evidence.of(agent.instance))

    def _why_not_up(
        self, agent: Agent, listed: pb.ManagedInstance, alive: Sequence[AgentProcess], marked: Sequence[int]
    ) -> str:
        mains = [process for process in alive if process.is_main]
        if len(mains) > 1:
            text = f"{agent.instance} runs more than once: {', '.join(map(str, mains))}"
            raise Breach(Invariant.I1, text, self.evidence.of(agent.instance))
        if not mains:
            return f"should be up, but does not run; published as {state_of(listed)}: {listed.message}"
        if listed.next_action != pb.NEXT_ACTION_UP:
            return f"runs, but is published as {state_of(listed)}: {listed.message}"
        (main,) = mains
        if listed.process.pid != main.identity.pid:
            return f"runs as {main}, but is published with pid {listed.process.pid}"
        earlier = {process for process in alive if process.run != main.run}
        if earlier:
            return f"has processes of an earlier run: {', '.join(map(str, earlier))}"
        unknown = set(marked) - {process.identity.pid for process in alive}
        if unknown:
            return f"has processes of no run: {sorted(unknown)}"
        return ""

    def _why_not_down(
        self,
        agent: Agent,
        listed: pb.ManagedInstance | None,
        alive: Sequence[AgentProcess],
        marked: Sequence[int],
    ) -> str:
        if alive:
            return f"should be down, but {', '.join(map(str, alive))} runs"
        if marked:
            return f"should be down, but {marked} run"
        if listed is not None and listed.next_action != pb.NEXT_ACTION_DOWN:
            return f"is down, but is published as {state_of(listed)}: {listed.message}"
        return ""

    def check_starts_and_exits(self) -> None:
        """Check that every start and exit since the last call had a reason. Raises Breach."""
        journals = self._host.journals
        journals.read()
        while journals.starts:
            process = journals.starts.popleft()
            if process.is_main and self._model.was_down(process.instance, process.identity.started):
                text = f"{process} was started, although {process.instance} was acknowledged as down"
                raise Breach(Invariant.I2, text, self.evidence.of(process.instance))
        for agent in self._host.agents:
            journals.alive(agent.instance)
        journals.read()  # the last lines of processes found dead just now
        while journals.exits:
            self._check_exit(journals.exits.popleft())

    def _check_exit(self, process: AgentProcess) -> None:
        dead = process.ended if process.ended is not None else proc.now()
        if (
            process.exited_by_itself
            or process.killed is not None
            or self._model.may_have_ended(process.instance, process.identity.started, dead)
        ):
            return
        if not process.is_main:
            main = self._host.journals.main_process_of(process)
            if main is None or not main.alive():
                return
        how = "by a signal" if process.ended is not None else "without a journal line"
        text = f"{process} ended {how}, without a request"
        raise Breach(Invariant.I9, text, self.evidence.of(process.instance))

    def check_beats(self) -> None:
        """Check that every live process beats. Raises Breach."""
        since = proc.now()
        journals = self._host.journals

        def silent() -> list[AgentProcess]:
            journals.read()
            return [
                process for agent in self._host.agents for process in journals.alive(agent.instance)
                if process.last < since
            ]  # fmt: skip

        if not poll(lambda: not silent(), PATIENCE):
            process = silent()[0]
            text = f"{process} runs, but does not beat"
            raise Breach(Invariant.I9, text, self.evidence.of(process.instance))

    def _agent(self, instance: str) -> Agent | None:
        return next((agent for agent in self._host.agents if agent.instance == instance), None)
