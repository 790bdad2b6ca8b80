"""Dependencies between instances: the order of starts and stops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from hostmanager.values import replace

from hostmanager_server.core.model import Instance, Instances, Outcome, Phase, State, UnmetDependency
from hostmanager_server.core.spec import StartCondition, Target


class Dependents:
    """An index of the dependents of each instance, in the order of their arrival."""

    def __init__(self) -> None:
        self._dependents: dict[str, dict[str, None]] = {}  # dicts as ordered sets

    def __bool__(self) -> bool:
        return bool(self._dependents)

    def of(self, instance_id: str) -> tuple[str, ...]:
        """Return the ids of the instances that depend on this one."""
        return tuple(self._dependents.get(instance_id, ()))

    def move(self, instance_id: str, before: Iterable[str], after: Iterable[str]) -> None:
        """Replace the dependencies of an instance."""
        for dependency in dict.fromkeys(before):
            dependents = self._dependents[dependency]
            del dependents[instance_id]
            if not dependents:
                del self._dependents[dependency]
        for dependency in after:
            self._dependents.setdefault(dependency, {})[instance_id] = None


def affects_neighbours(before: Instance | None, after: Instance | None) -> bool:
    """Return whether a change matters to the dependencies and dependents."""
    return before is None or after is None or _relevant_facts(before) != _relevant_facts(after)


def _relevant_facts(instance: Instance) -> tuple[object, ...]:
    run, standing = instance.observed.run, instance.standing
    run_facts = (run.phase, run.started) if run is not None else None
    waits = standing.reason if standing.state is State.START else ""
    wanted = (instance.should_run, instance.should_stop, instance.wanted.target, instance.held)
    return (instance.next_action, *wanted, standing.outcome, run_facts, waits)


def with_dependency_facts(instance: Instance, instances: Instances, dependents: Iterable[str]) -> Instance:
    """Return the instance with up-to-date `waiting_for`, `held_by` and `restarted_by`."""
    unmet = waiting_for(instances, instance)
    holding = held_by(instances, instance, dependents)
    causes = restarted_by(instances, instance)
    observed = instance.observed
    if (unmet, holding, causes) == (observed.waiting_for, observed.held_by, observed.restarted_by):
        return instance
    observed = replace(observed, waiting_for=unmet, held_by=holding, restarted_by=causes)
    return replace(instance, observed=observed)


def waiting_for(instances: Instances, instance: Instance) -> tuple[UnmetDependency, ...]:
    """Return the dependencies of an instance that do not meet their conditions."""
    if not instance.spec.dependencies:
        return ()
    conditions = dict(instance.spec.conditions)
    unmet = []
    for name in instance.spec.depends_on:
        other = instances.get(name)
        if other is None:
            unmet.append(UnmetDependency(name, conditions.get(name, StartCondition.READY)))
        elif not _meets(other, condition := conditions.get(name, other.spec.default_condition)):
            unmet.append(UnmetDependency(name, condition, _why_hopeless(other)))
    # The driver starts these services and waits for them. But those that must be down would be stopped again.
    for name in instance.spec.service_dependencies:
        other = instances.get(name)
        if other is not None and other.wanted.target is Target.DOWN and name not in instance.spec.depends_on:
            unmet.append(UnmetDependency(name, StartCondition.READY, _why_hopeless(other)))
    return tuple(unmet)


def _meets(dependency: Instance, condition: StartCondition) -> bool:
    if dependency.observed.unobservable:
        return False
    completed = dependency.standing.outcome is Outcome.COMPLETED
    match condition:
        case StartCondition.COMPLETED:
            return completed
        case StartCondition.READY:
            return completed or (dependency.standing.state is State.UP and not dependency.should_stop)
        case StartCondition.STARTED:
            run = dependency.observed.run
            executed = run is not None and run.phase in (Phase.RUNNING, Phase.READY, Phase.DEGRADED)
            return completed or (executed and not dependency.should_stop)
    assert_never(condition)


def _why_hopeless(dependency: Instance) -> str:
    """Return why only a request can help the dependency; empty if the daemon works on it."""
    standing = dependency.standing
    if dependency.retired:
        return "it is gone from the config"
    if dependency.wanted.target is Target.DOWN:
        return "its target is down"
    if dependency.held and dependency.observed.run is None:
        return "it is held"
    if not dependency.operable:
        return "it is not operable"
    if standing.outcome is Outcome.FAILED:
        return "it has failed"
    if standing.state is State.START and standing.reason == "DependencyDown":
        return "one of its own dependencies is down"
    return ""


def held_by(instances: Instances, instance: Instance, dependents: Iterable[str]) -> tuple[str, ...]:
    """Return the dependents that must be down before the instance may stop."""
    return tuple(
        name
        for name in dependents
        if (other := instances.get(name)) is not None
        and instance.instance_id in other.spec.depends_on
        and other.observed.run is not None
        and other.should_stop
    )


def restarted_by(instances: Instances, instance: Instance) -> tuple[str, ...]:
    """Return the dependencies with `restart-dependents` that are up with a later run than the instance's."""
    run = instance.observed.run
    if run is None or run.started is None:
        return ()
    return tuple(
        name
        for name in instance.spec.depends_on
        if (other := instances.get(name)) is not None
        and other.spec.restart_dependents
        and other.next_action is State.UP
        and (began := other.observed.run) is not None
        and began.started is not None
        and began.started.mono > run.started.mono
    )
