"""Requests against the tracked instances: what a new config, a target change or a restart makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hostmanager_server.core.actions import Kind, Note
from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.events import Instant
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
    notes: tuple[Note, ...] = ()
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
        # However often one request names an instance, it is one change.
        instance_id: replace(new, generation=instances[instance_id].generation + 1)
        for instance_id, new in changed.items()
    }


def _those_that_count(changes: Iterable[TargetChange]) -> list[TargetChange]:
    """The changes without those that are repeated later: a thousand times `all` are two changes at most. An
    earlier change of the other kind stays, as it has effects that a later one does not undo."""
    last = {change: index for index, change in enumerate(changes)}
    return sorted(last, key=last.__getitem__)


def _with_target(instance: Instance, target: Target) -> Instance:
    instance = replace(instance, target_lost=False)
    if instance.successor is not None:  # which takes the target over
        return replace(instance, target=target)
    if target is Target.UP:
        return replace(instance, target=target, finished=False, retry_at=None)
    return replace(instance, target=target, finished=False, restart_wanted=False, retry_at=None)


def check_restart(instances: Instances, ids: Iterable[str]) -> list[BadEntry]:
    """Every id that cannot be restarted."""
    bad = []
    for index, instance_id in enumerate(ids):
        instance = instances.get(instance_id)
        if instance is None:
            bad.append(BadEntry(index, no_instance(instance_id), unknown=True))
        elif instance.retired:
            bad.append(BadEntry(index, f"{instance_id!r} is retired and being brought down"))
        elif instance.target is not Target.UP:
            why = f"the target of {instance_id!r} is {instance.target.value}; set it to up instead"
            bad.append(BadEntry(index, why))
        elif instance.spec.workload is None:
            bad.append(BadEntry(index, f"{instance_id!r} is not operable: {instance.spec.problem}"))
    return bad


def restart(instances: Instances, ids: Iterable[str]) -> dict[str, Instance]:
    """The instances named, to go down and up again."""
    return {
        instance_id: replace(
            instances[instance_id],
            restart_wanted=True,
            finished=False,
            retry_at=None,
            generation=instances[instance_id].generation + 1,
        )
        for instance_id in ids
    }


def apply_config(instances: Instances, host: HostSpec, now: Instant) -> Plan:
    """What `update(reload_config)` of OCS does: new instances get their configured target, known ones keep
    theirs, vanished ones retire, a change of class or management resets. Other changes take effect with the
    next start, and show as `restart_required` until then.

    Who tracks a compose service may change without a change of the service: the site config begins or ceases
    to name it. It is taken over as it runs.
    """
    changed: dict[str, Instance] = {}
    notes: list[Note] = []
    dropped: list[str] = []
    listed = {spec.instance_id for spec in host.instances}
    leaving = {
        _service_key(i.spec): i for i in instances.values() if i.spec.service and i.instance_id not in listed
    }
    served = {_service_key(spec) for spec in host.instances if spec.service is not None}

    def note(reason: str, message: str, instance_id: str) -> None:
        notes.append(Note(Kind.INSTANCE, reason, message, now, instance_id))

    for spec in host.instances:
        old = instances.get(spec.instance_id)
        if old is None and spec.service is not None and (tracked := leaving.get(_service_key(spec))):
            changed[spec.instance_id] = _taken_over(tracked, spec)
            note("TakenOver", _who_takes_over(tracked.spec, spec), spec.instance_id)
        elif old is None:
            changed[spec.instance_id] = new_instance(spec)
            note("Added", f"{spec.full_name} added, target {spec.initial_target.value}", spec.instance_id)
        elif old.retired:  # back before it was gone: the old one ends first
            changed[spec.instance_id] = _reset(old, spec)
            note("Reset", f"{spec.full_name} is back in the config; starting afresh", spec.instance_id)
        elif old.successor is not None and _same_kind(old.successor, spec):  # being reset to this already
            if old.successor != spec:
                changed[spec.instance_id] = replace(old, successor=spec)
        elif _changes_hands(old.spec, spec):
            changed[spec.instance_id] = _taken_over(old, spec)
            note("TakenOver", _who_takes_over(old.spec, spec), spec.instance_id)
        elif not _same_kind(old.spec, spec):
            changed[spec.instance_id] = _reset(old, spec)
            was = f"{old.spec.agent_class}, {old.spec.management.value}"
            to = f"{spec.agent_class}, {spec.management.value}"
            note("Reset", f"class or management changed ({was} -> {to}); being reset", spec.instance_id)
        elif old.spec != spec or old.successor is not None:
            new = _with_service(replace(old, spec=spec, successor=None), old.spec)
            changed[spec.instance_id] = new
            if old.spec.service is not None and spec.service is None:
                note("ServiceGone", spec.problem, spec.instance_id)
            elif new.restart_required and not old.restart_required:
                note("RestartRequired", "what it runs differs from the config now", spec.instance_id)
    for instance_id in sorted(set(instances) - listed):
        old = instances[instance_id]
        if old.spec.agent_class == UNCLAIMED or _service_key(old.spec) in served:
            dropped.append(instance_id)  # what runs is another instance's now, or an orphan
            note("Dropped", f"{old.spec.full_name} is no longer tracked under this name", instance_id)
        elif not old.retired:
            changed[instance_id] = retire(old)
            note("Retired", f"{old.spec.full_name} is no longer in the config; being retired", instance_id)
    return Plan(changed, tuple(notes), tuple(dropped))


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
        target = Target.UP if old.run is not None else Target.DOWN
    new = new_instance(spec, target, generation=old.generation + 1)
    return replace(
        new, fail_times=old.fail_times, last_exit=old.last_exit, runs=old.runs, restarts=old.restarts
    )


def _who_takes_over(old: InstanceSpec, new: InstanceSpec) -> str:
    assert new.service is not None
    if new.agent_class == UNCLAIMED:
        return f"the site config no longer names {old.full_name}: its service is only observed from now on"
    return f"service {new.service.service!r} is now managed as {new.full_name}, as it runs"


def _with_service(new: Instance, old: InstanceSpec) -> Instance:
    """Let go of the containers of a service that is no longer this instance's, and look for those of its
    present one."""
    if _service_key(old) == _service_key(new.spec):
        return new
    why = NOT_YET_SEEN if new.spec.service is not None else ""
    return replace(new, run=None, record=None, out_of_sight=why, state=State.DOWN, at=None)


def _same_kind(one: InstanceSpec, other: InstanceSpec) -> bool:
    return one.agent_class == other.agent_class and one.management is other.management


def retire(instance: Instance) -> Instance:
    return replace(
        instance,
        management=Management.RETIRED,
        target=Target.DOWN,
        successor=None,
        restart_wanted=False,
        generation=instance.generation + 1,
    )


def observe(instance: Instance) -> Instance:
    """Let go of an instance: from now on it is only observed (OCS: disown)."""
    return replace(
        instance,
        spec=replace(instance.spec, initial_target=Target.PASSIVE),
        target=Target.PASSIVE,
        successor=None,
        restart_wanted=False,
        retry_at=None,
    )


def _reset(old: Instance, spec: InstanceSpec) -> Instance:
    bumped = replace(old, generation=old.generation + 1)
    if old.run is None and not old.out_of_sight:
        return successor_of(bumped, spec, spec.initial_target)
    return replace(bumped, management=old.spec.management, successor=spec, target=spec.initial_target)


def waiting_for(instances: Instances, instance: Instance) -> tuple[str, ...]:
    """What the instance depends on and is not up to stay."""
    return tuple(
        d
        for d in instance.spec.depends_on
        if (i := instances.get(d)) is None or i.next_action is not State.UP or i.leaving
    )


def held_by(instances: Instances, instance: Instance, dependents: Iterable[str]) -> tuple[str, ...]:
    """Those of its dependents that are on their way down, and are to be there first."""
    return tuple(
        d for d in dependents if (i := instances.get(d)) is not None and i.run is not None and i.leaving
    )
