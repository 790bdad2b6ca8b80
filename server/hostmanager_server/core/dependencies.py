"""Dependencies between instances: the order of starts and stops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hostmanager_server.core.model import Instance, Instances, State


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
    return instance.next_action, instance.should_run, instance.should_stop, instance.observed.run is None


def with_dependency_facts(instance: Instance, instances: Instances, dependents: Iterable[str]) -> Instance:
    """Return the instance with up-to-date `waiting_for` and `held_by`."""
    missing = waiting_for(instances, instance)
    holding = held_by(instances, instance, dependents)
    if (missing, holding) == (instance.observed.waiting_for, instance.observed.held_by):
        return instance
    return replace(instance, observed=replace(instance.observed, waiting_for=missing, held_by=holding))


def waiting_for(instances: Instances, instance: Instance) -> tuple[str, ...]:
    """Return the dependencies of an instance that are not up, or must stop."""
    return tuple(
        name
        for name in instance.spec.depends_on
        if (other := instances.get(name)) is None or other.next_action is not State.UP or other.should_stop
    )


def held_by(instances: Instances, instance: Instance, dependents: Iterable[str]) -> tuple[str, ...]:
    """Return the dependents that must be down before the instance may stop."""
    return tuple(
        name
        for name in dependents
        if (other := instances.get(name)) is not None and other.observed.run is not None and other.should_stop
    )
