"""Requests to the tracked instances: targets, restarts and stops."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from hostmanager.values import dataclass, replace

from hostmanager_server.core.holds import hold_text, why_not_up
from hostmanager_server.core.model import Instance, Instances, Job, Outcome, Standing
from hostmanager_server.core.origin import NO_ORIGINS, Origin, RequestOrigins
from hostmanager_server.core.spec import Management, Target

ALL = "all"


@dataclass(frozen=True, slots=True)
class TargetChange:
    """A requested target for one instance, or for all if `instance_id` is ALL.

    `with_dependencies`: a change to `up` also brings up the dependencies that are down on purpose.
    `selector`: `instance_id` is a selector. `failing`: the change concerns failing instances only. Selectors
    and `failing` are resolved before the other functions of this module see a change.
    """

    instance_id: str
    target: Target
    with_dependencies: bool = False
    selector: bool = False
    failing: bool = False


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry of a request that cannot be carried out; `index` counts from 0."""

    index: int
    why: str
    unknown: bool = False  # the instance is not tracked
    where: str = ""  # the field, if the entry is of another list than the others


def no_instance(instance_id: str, instances: Iterable[Instance] = ()) -> str:
    """Return the error text for an unknown instance id.

    A hint names the instance among `instances` that has a compose service or container of this name.
    """
    text = f"no instance {instance_id!r} on this host"
    for instance in instances:
        if instance_id in _names_in_compose(instance):
            return f"{text}; compose's {instance_id!r} is the instance {instance.instance_id!r}"
    return text


def _names_in_compose(instance: Instance) -> tuple[str, ...]:
    """Return the names by which users of compose know the service of an instance."""
    service, status = instance.spec.service, instance.observed.service
    if service is None:
        return ()
    container = status.container_name if status is not None else ""
    name = service.service
    return name, f"{service.project}/{name}", f"{service.project}-{name}", container


def check_targets(
    known: Iterable[str], changes: Iterable[TargetChange], instances: Collection[Instance] = ()
) -> list[BadEntry]:
    """Return the entries with unknown instance ids, and those that would start a held instance.

    The first unknown id has a hint from `instances`. A change of ALL leaves held instances down.
    """
    ids = set(known)
    held = {i.instance_id: i for i in instances if i.held}
    bad: list[BadEntry] = []
    for index, change in enumerate(changes):
        if change.instance_id != ALL and change.instance_id not in ids:
            why = no_instance(change.instance_id, () if bad else instances)
            bad.append(BadEntry(index, why, unknown=True))
        elif change.target is Target.UP and (why := why_not_up(held.get(change.instance_id))):
            bad.append(BadEntry(index, _held("start", change.instance_id, why)))
    return bad


def _held(what: str, instance_id: str, why: str) -> str:
    return f"cannot {what} {instance_id!r}: {why}; release it first: hostmanager release {instance_id}"


def set_targets(
    instances: Instances, changes: Iterable[TargetChange], origin: Origin | None = None
) -> dict[str, Instance]:
    """Return the named instances with their new targets, which have this origin.

    Changes apply in order: a later change overrides an earlier one. Retired instances keep their target. A
    request for `up` ends a backoff, and starts a finished instance again. A passive instance carries out the
    request once, and becomes passive again.
    """
    changed: dict[str, Instance] = {}
    for change in with_dependencies(instances, _effective(changes)):
        ids = sorted(instances) if change.instance_id == ALL else [change.instance_id]
        for instance_id in ids:
            old = changed.get(instance_id, instances[instance_id])
            if not old.retired:
                changed[instance_id] = _with_target(old, change.target, origin)
    return {instance_id: next_generation(new, instances[instance_id]) for instance_id, new in changed.items()}


def final_targets(changes: Iterable[TargetChange], known: Iterable[str]) -> dict[str, Target]:
    """Return the last target that the changes ask of each named instance, without those of dependencies."""
    everything = sorted(known)
    targets: dict[str, Target] = {}
    for change in changes:
        ids = everything if change.instance_id == ALL else [change.instance_id]
        targets |= dict.fromkeys(ids, change.target)
    return targets


def _effective(changes: Iterable[TargetChange]) -> list[TargetChange]:
    """Drop every change that an identical later change repeats; keep the order.

    A thousand entries for `all` are two changes at most. An earlier change to the other target stays: some of
    its effects outlive a later change.
    """
    last = {change: index for index, change in enumerate(changes)}
    return sorted(last, key=last.__getitem__)


def _with_target(instance: Instance, target: Target, origin: Origin | None) -> Instance:
    origins = replace(instance.wanted.origins, target=origin)
    wanted = replace(instance.wanted, target=target, target_lost=False, origins=origins)
    if wanted.successor is not None:  # the successor gets the target
        return replace(instance, wanted=wanted)
    if target is not Target.UP:
        wanted = replace(wanted, restart=False, job=None)
    elif wanted.job is not None:  # the run goes on, and the target stays up
        wanted = replace(wanted, job=replace(wanted.job, target_after=None))
    return replace(instance, wanted=wanted, standing=_fresh(instance))


def with_dependencies(instances: Instances, changes: Iterable[TargetChange]) -> list[TargetChange]:
    """Return the changes, with the changes of the dependencies before those of their dependents.

    Only dependencies with the target down change. The order of the changes stays.
    """
    expanded: list[TargetChange] = []
    for change in changes:
        if change.with_dependencies and change.target is Target.UP and change.instance_id != ALL:
            expanded += (
                TargetChange(name, Target.UP)
                for name in _dependencies_of(instances, change.instance_id)
                if instances[name].wanted.target is Target.DOWN
            )
        expanded.append(change)
    return expanded


def _dependencies_of(instances: Instances, instance_id: str) -> list[str]:
    """Return all direct and indirect dependencies of an instance, without duplicates."""
    found: dict[str, None] = {}
    queue = [instance_id]
    while queue:
        instance = instances.get(queue.pop())
        if instance is not None:
            # The definition after the next start decides: the request starts the instance.
            spec = instance.wanted.successor or instance.spec
            new = [name for name in spec.dependencies if name not in found and name in instances]
            found.update(dict.fromkeys(new))
            queue += new
    return list(found)


def next_generation(instance: Instance, before: Instance) -> Instance:
    """Return the instance with the generation after that of `before`.

    A request that names an instance twice makes one generation.
    """
    wanted = replace(instance.wanted, generation=before.wanted.generation + 1)
    return replace(instance, wanted=wanted)


def check_restart(instances: Instances, ids: Iterable[str]) -> list[BadEntry]:
    """Return the entries of a restart request that cannot be carried out."""
    bad: list[BadEntry] = []
    for index, instance_id in enumerate(ids):
        instance = instances.get(instance_id)
        if instance is None:
            why = no_instance(instance_id, () if bad else instances.values())
            bad.append(BadEntry(index, why, unknown=True))
        elif instance.retired:
            bad.append(
                BadEntry(index, f"cannot restart {instance_id!r}: retired, and about to leave the list")
            )
        elif instance.wanted.hold is not None:
            bad.append(BadEntry(index, _held("restart", instance_id, hold_text(instance.wanted.hold))))
        elif instance.wanted.target is not Target.UP:
            observed_run = instance.passive_tracking and instance.observed.run is not None
            way = "request down, then up" if observed_run else "set the target to up instead"
            why = f"cannot restart {instance_id!r}: its target is {instance.wanted.target.value}; {way}"
            bad.append(BadEntry(index, why))
        elif instance.spec.workload is None:
            why = f"cannot restart {instance_id!r}: not operable: {instance.spec.problem}"
            bad.append(BadEntry(index, why))
    return bad


def check_signal(instances: Instances, instance_id: str, *, whole_tree: bool) -> BadEntry | None:
    """Return why an operator's signal cannot be sent to an instance, or None."""
    instance = instances.get(instance_id)
    if instance is None:
        return BadEntry(0, no_instance(instance_id, instances.values()), unknown=True)
    run, why = instance.observed.run, ""
    if instance.observed.unobservable:
        why = instance.observed.unobservable
    elif run is None or run.started is None:
        why = "nothing of it runs; start the instance with `hostmanager up` first"
    elif whole_tree and instance.spec.service is not None:
        why = "the engine signals only the main process of a container; leave out the whole tree"
    elif whole_tree and run.stop_stage is not None:
        why = "it is stopping, and its processes already get signals; wait for the end"
    return BadEntry(0, f"cannot signal {instance_id!r}: {why}") if why else None


def check_known(instances: Instances, ids: Iterable[str]) -> list[BadEntry]:
    """Return the entries with unknown ids, and those of retired instances."""
    bad: list[BadEntry] = []
    for index, instance_id in enumerate(ids):
        instance = instances.get(instance_id)
        if instance is None:
            why = no_instance(instance_id, () if bad else instances.values())
            bad.append(BadEntry(index, why, unknown=True))
        elif instance.retired:
            why = f"cannot hold {instance_id!r}: retired, and about to leave the list"
            bad.append(BadEntry(index, why))
    return bad


def restartable(instances: Instances) -> list[str]:
    """Return the ids of all instances that can be restarted, sorted."""
    return [instance_id for instance_id in sorted(instances) if not check_restart(instances, [instance_id])]


def restart(instances: Instances, ids: Iterable[str], origin: Origin | None = None) -> dict[str, Instance]:
    """Return the named instances, with a restart requested."""
    return {instance_id: _with_restart(instances[instance_id], origin) for instance_id in ids}


def _with_restart(instance: Instance, origin: Origin | None) -> Instance:
    wanted = replace(instance.wanted, restart=True, origins=replace(instance.wanted.origins, restart=origin))
    if instance.awaits_schedule:  # the operator need not wait for the next time
        wanted = replace(wanted, job=Job())
    restarted = replace(instance, wanted=wanted, standing=_fresh(instance))
    return next_generation(restarted, instance)


def _fresh(instance: Instance) -> Standing:
    """Return the standing after a request: no backoff, no outcome, and a new count after giving up."""
    standing = replace(instance.standing, outcome=None, retry_at=None, backgrounded=0)
    return replace(standing, failures=0) if instance.standing.outcome is Outcome.FAILED else standing


def retire(instance: Instance) -> Instance:
    """Return the instance as retired: the instance stops, then leaves the list."""
    wanted = replace(
        instance.wanted,
        management=Management.RETIRED,
        target=Target.DOWN,
        successor=None,
        restart=False,
        job=None,
        generation=instance.wanted.generation + 1,
    )
    return replace(instance, wanted=wanted)


def observe(instance: Instance) -> Instance:
    """Return the instance as passive: the daemon only observes (OCS: disown)."""
    return replace(
        instance,
        spec=replace(instance.spec, initial_target=Target.PASSIVE),
        wanted=replace(instance.wanted, target=Target.PASSIVE, successor=None, restart=False, job=None),
        standing=replace(instance.standing, retry_at=None),
    )


def enforce(instances: Instances, *, enforced: bool) -> dict[str, Instance]:
    """Return the instances that change, with `enforced` set as given."""
    return {
        instance.instance_id: replace(instance, wanted=replace(instance.wanted, enforced=enforced))
        for instance in instances.values()
        if instance.wanted.enforced is not enforced
    }


def requested_targets(instances: Instances) -> dict[str, Target]:
    """Return the targets by instance id, without retired instances.

    During a run at an operator's request, the target is that after the run.
    """
    return {i.instance_id: _lasting(i) for i in instances.values() if not i.retired}


def _lasting(instance: Instance) -> Target:
    job = instance.wanted.job
    return instance.wanted.target if job is None else job.target_after or instance.wanted.target


def request_origins(instances: Instances) -> dict[str, RequestOrigins]:
    """Return the origins by instance id, where known, without retired instances."""
    return {
        i.instance_id: i.wanted.origins
        for i in instances.values()
        if not i.retired and i.wanted.origins is not NO_ORIGINS
    }


def stop_all(instances: Instances, origin: Origin | None = None) -> dict[str, Instance]:
    """Return all instances that are not passive, with the target down."""
    down = [TargetChange(i.instance_id, Target.DOWN) for i in _not_passive(instances)]
    return set_targets(instances, down, origin)


def with_target_origin(before: Instances, changed: Instances, origin: Origin) -> dict[str, Instance]:
    """Return changed instances, with the origin of those whose target a new config has decided."""
    return {
        instance_id: _decided_by(instance, origin)
        if (old := before.get(instance_id)) is None or old.wanted.generation != instance.wanted.generation
        else instance
        for instance_id, instance in changed.items()
    }


def _decided_by(instance: Instance, origin: Origin) -> Instance:
    origins = replace(instance.wanted.origins, target=origin)
    return replace(instance, wanted=replace(instance.wanted, origins=origins))


def remaining(instances: Instances) -> list[Instance]:
    """Return the instances that are not down yet after `stop_all`, or unobservable."""
    return [i for i in _not_passive(instances) if i.observed.run is not None or i.observed.unobservable]


def _not_passive(instances: Instances) -> list[Instance]:
    return [i for i in instances.values() if i.wanted.target is not Target.PASSIVE]
