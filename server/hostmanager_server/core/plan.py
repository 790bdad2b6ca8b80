"""Requests against the tracked instances: what a new config, a target change or a restart makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.lifecycle import release_run
from hostmanager_server.core.model import NOT_YET_SEEN, Instance, State, new_instance, successor_of
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, Target

ALL = "all"

Instances = Mapping[str, Instance]


@dataclass(frozen=True, slots=True)
class TargetChange:
    """`who` is an instance id, or ALL."""

    who: str
    target: Target


@dataclass(frozen=True, slots=True)
class BadEntry:
    """One entry of a request that cannot be carried out. `index` counts from 0."""

    index: int
    why: str
    unknown: bool = False  # the instance is not tracked


@dataclass(frozen=True, slots=True)
class Plan:
    """Instances as they are to be: those that differ from the present ones, those that leave as they are,
    and what to say about it."""

    changed: Mapping[str, Instance]
    entries: tuple[LogEntry, ...] = ()
    dropped: tuple[str, ...] = ()


def no_instance(instance_id: str) -> str:
    """What is said of an id that is not tracked."""
    return f"no instance {instance_id!r} on this host"


def check_targets(known: Iterable[str], changes: Iterable[TargetChange]) -> list[BadEntry]:
    """Every entry that cannot be carried out on these ids."""
    ids = set(known)
    bad = []
    for index, change in enumerate(changes):
        if change.who != ALL and change.who not in ids:
            bad.append(BadEntry(index, no_instance(change.who), unknown=True))
    return bad


def set_targets(instances: Instances, changes: Iterable[TargetChange]) -> dict[str, Instance]:
    """The instances named, with their new targets, in order: a later change overrides an earlier one.

    An instance that is on its way out (retired) is left alone. A new request for `up` starts at once what was
    backing off or finished. Passive instances are only nudged: their target stands until it is reached.
    """
    changed: dict[str, Instance] = {}
    for change in _those_that_count(changes):
        ids = sorted(instances) if change.who == ALL else [change.who]
        for instance_id in ids:
            old = changed.get(instance_id, instances[instance_id])
            if not old.retired:
                changed[instance_id] = _with_target(old, change.target)
    return {
        instance_id: _next_generation(new, instances[instance_id]) for instance_id, new in changed.items()
    }


def _those_that_count(changes: Iterable[TargetChange]) -> list[TargetChange]:
    """The changes without those that are repeated later: a thousand times `all` are two changes at most. An
    earlier change of the other kind stays, as it has effects that a later one does not undo."""
    last = {change: index for index, change in enumerate(changes)}
    return sorted(last, key=last.__getitem__)


def _with_target(instance: Instance, target: Target) -> Instance:
    wanted = replace(instance.wanted, target=target, target_lost=False)
    if wanted.successor is not None:  # the successor takes the target over
        return replace(instance, wanted=wanted)
    if target is not Target.UP:
        wanted = replace(wanted, restart=False)
    standing = replace(instance.standing, finished=False, retry_at=None)
    return replace(instance, wanted=wanted, standing=standing)


def _next_generation(instance: Instance, before: Instance) -> Instance:
    """Count one change, however often one request names the instance."""
    wanted = replace(instance.wanted, generation=before.wanted.generation + 1)
    return replace(instance, wanted=wanted)


def check_restart(instances: Instances, ids: Iterable[str]) -> list[BadEntry]:
    """Every id that cannot be restarted."""
    bad = []
    for index, instance_id in enumerate(ids):
        instance = instances.get(instance_id)
        if instance is None:
            bad.append(BadEntry(index, no_instance(instance_id), unknown=True))
        elif instance.retired:
            bad.append(BadEntry(index, f"{instance_id!r} is retired and being brought down"))
        elif instance.wanted.target is not Target.UP:
            target = instance.wanted.target.value
            why = f"the target of {instance_id!r} is {target}; set it to up instead"
            bad.append(BadEntry(index, why))
        elif instance.spec.workload is None:
            bad.append(BadEntry(index, f"{instance_id!r} is not operable: {instance.spec.problem}"))
    return bad


def restart(instances: Instances, ids: Iterable[str]) -> dict[str, Instance]:
    """Return the named instances, with a restart requested."""
    return {instance_id: _with_restart(instances[instance_id]) for instance_id in ids}


def _with_restart(instance: Instance) -> Instance:
    standing = replace(instance.standing, finished=False, retry_at=None)
    restarted = replace(instance, wanted=replace(instance.wanted, restart=True), standing=standing)
    return _next_generation(restarted, instance)


def apply_config(instances: Instances, host: HostSpec, now: Instant) -> Plan:
    """Plan the change to a new config, as OCS's `update(reload_config)` does.

    New instances get their configured target, known ones keep theirs, missing ones retire, and a change of
    class or management resets an instance. Any other change takes effect with the next start, and shows as
    `restart_required` until then. A service that the site config begins or ceases to name changes hands
    while it runs.
    """
    planner = _Planner(instances, host, now)
    for spec in host.instances:
        planner.take(spec)
    for instance_id in sorted(set(instances) - planner.listed):
        planner.leave_out(instance_id)
    return Plan(planner.changed, tuple(planner.entries), tuple(planner.dropped))


class _Planner:
    """The plan for one new config while `apply_config` builds it."""

    def __init__(self, instances: Instances, host: HostSpec, now: Instant) -> None:
        self.changed: dict[str, Instance] = {}
        self.entries: list[LogEntry] = []
        self.dropped: list[str] = []
        self.listed = {spec.instance_id for spec in host.instances}
        self._instances = instances
        self._now = now
        self._served = {_service_key(spec) for spec in host.instances if spec.service is not None}
        self._leaving = {
            _service_key(instance.spec): instance
            for instance in instances.values()
            if instance.spec.service is not None and instance.instance_id not in self.listed
        }

    def take(self, spec: InstanceSpec) -> None:
        """Plan for one instance of the new config."""
        old = self._instances.get(spec.instance_id)
        if old is None:
            self._add(spec)
        elif old.retired:  # listed again before the old run was gone, which ends first
            reason = f"{spec.full_name} is back in the config; starting afresh"
            self._change(_reset(old, spec), "Reset", reason)
        elif old.wanted.successor is not None and _same_kind(old.wanted.successor, spec):
            if old.wanted.successor != spec:  # the reset to this kind is in progress already
                self.changed[spec.instance_id] = _with_successor(old, spec)
        elif _changes_hands(old.spec, spec):
            self._change(_taken_over(old, spec), "TakenOver", _who_takes_over(old.spec, spec))
        elif not _same_kind(old.spec, spec):
            was = f"{old.spec.agent_class}, {old.spec.management.value}"
            to = f"{spec.agent_class}, {spec.management.value}"
            message = f"class or management changed ({was} -> {to}); being reset"
            self._change(_reset(old, spec), "Reset", message)
        elif old.spec != spec or old.wanted.successor is not None:
            self._respecify(old, spec)

    def leave_out(self, instance_id: str) -> None:
        """Plan for an instance that the new config does not list."""
        old = self._instances[instance_id]
        name = old.spec.full_name
        if old.spec.agent_class == UNCLAIMED or _service_key(old.spec) in self._served:
            self.dropped.append(
                instance_id
            )  # another instance has the service now, or its containers are orphans
            self._entry("Dropped", f"{name} is no longer tracked under this name", instance_id)
        elif not old.retired:
            self._change(retire(old), "Retired", f"{name} is no longer in the config; being retired")

    def _add(self, spec: InstanceSpec) -> None:
        tracked = self._leaving.get(_service_key(spec)) if spec.service is not None else None
        if tracked is not None:
            self._change(_taken_over(tracked, spec), "TakenOver", _who_takes_over(tracked.spec, spec))
        else:
            message = f"{spec.full_name} added, target {spec.initial_target.value}"
            self._change(new_instance(spec), "Added", message)

    def _respecify(self, old: Instance, spec: InstanceSpec) -> None:
        new = replace(old, spec=spec, wanted=replace(old.wanted, successor=None))
        new = _with_service(new, old.spec)
        self.changed[spec.instance_id] = new
        if old.spec.service is not None and spec.service is None:
            self._entry("ServiceGone", spec.problem, spec.instance_id)
        elif new.restart_required and not old.restart_required:
            self._entry(
                "RestartRequired", "the running command differs from the config now", spec.instance_id
            )

    def _change(self, new: Instance, reason: str, message: str) -> None:
        self.changed[new.instance_id] = new
        self._entry(reason, message, new.instance_id)

    def _entry(self, reason: str, message: str, instance_id: str) -> None:
        self.entries.append(LogEntry(EntryKind.INSTANCE, reason, message, self._now, instance_id))


def _service_key(spec: InstanceSpec) -> tuple[str, str] | None:
    return (spec.service.project, spec.service.service) if spec.service is not None else None


def _changes_hands(old: InstanceSpec, new: InstanceSpec) -> bool:
    """Whether the same service is tracked under the same name, but the site config names it as it did not, or
    no longer does."""
    same = old.service is not None and _service_key(old) == _service_key(new)
    return same and (old.agent_class == UNCLAIMED) is not (new.agent_class == UNCLAIMED)


def _taken_over(old: Instance, spec: InstanceSpec) -> Instance:
    """An instance for the service of `old`, as that runs."""
    target = spec.initial_target
    if target is not Target.PASSIVE:
        target = Target.UP if old.observed.run is not None else Target.DOWN
    new = new_instance(spec, target, generation=old.wanted.generation + 1)
    was = old.standing
    return replace(
        new,
        observed=replace(new.observed, last_exit=old.observed.last_exit),
        standing=replace(new.standing, fail_times=was.fail_times, runs=was.runs, restarts=was.restarts),
    )


def _who_takes_over(old: InstanceSpec, new: InstanceSpec) -> str:
    assert new.service is not None
    if new.agent_class == UNCLAIMED:
        return f"the site config no longer names {old.full_name}: its service is only observed from now on"
    return f"service {new.service.service!r} is now managed as {new.full_name}, as it runs"


def _with_service(new: Instance, old: InstanceSpec) -> Instance:
    """Release the containers of the former service, and wait for those of the present one."""
    if _service_key(old) == _service_key(new.spec):
        return new
    new = release_run(new)
    why = NOT_YET_SEEN if new.spec.service is not None else ""
    return replace(new, observed=replace(new.observed, out_of_sight=why))


def _same_kind(one: InstanceSpec, other: InstanceSpec) -> bool:
    return one.agent_class == other.agent_class and one.management is other.management


def retire(instance: Instance) -> Instance:
    """Return the instance on its way out: down, then off the list."""
    wanted = replace(
        instance.wanted,
        management=Management.RETIRED,
        target=Target.DOWN,
        successor=None,
        restart=False,
        generation=instance.wanted.generation + 1,
    )
    return replace(instance, wanted=wanted)


def observe(instance: Instance) -> Instance:
    """Let go of an instance: from now on the daemon only observes (OCS: disown)."""
    return replace(
        instance,
        spec=replace(instance.spec, initial_target=Target.PASSIVE),
        wanted=replace(instance.wanted, target=Target.PASSIVE, successor=None, restart=False),
        standing=replace(instance.standing, retry_at=None),
    )


def enforce(instances: Instances, *, enforced: bool) -> dict[str, Instance]:
    """Return the instances whose targets begin, or cease, to be enforced."""
    return {
        instance.instance_id: replace(instance, wanted=replace(instance.wanted, enforced=enforced))
        for instance in instances.values()
        if instance.wanted.enforced is not enforced
    }


def _reset(old: Instance, spec: InstanceSpec) -> Instance:
    bumped = _next_generation(old, old)
    if old.observed.run is None and not old.observed.out_of_sight:
        return successor_of(bumped, spec, spec.initial_target)
    wanted = replace(bumped.wanted, management=old.spec.management, target=spec.initial_target)
    return _with_successor(replace(bumped, wanted=wanted), spec)


def _with_successor(instance: Instance, spec: InstanceSpec) -> Instance:
    return replace(instance, wanted=replace(instance.wanted, successor=spec))


def waiting_for(instances: Instances, instance: Instance) -> tuple[str, ...]:
    """Return the dependencies that are not up, or about to leave."""
    return tuple(
        name
        for name in instance.spec.depends_on
        if (other := instances.get(name)) is None or other.next_action is not State.UP or other.should_end
    )


def held_by(instances: Instances, instance: Instance, dependents: Iterable[str]) -> tuple[str, ...]:
    """Return the dependents that must be down before the instance may stop."""
    return tuple(
        name
        for name in dependents
        if (other := instances.get(name)) is not None and other.observed.run is not None and other.should_end
    )
