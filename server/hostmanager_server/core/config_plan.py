"""The plan for a new site config: added, changed, retired and dropped instances."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager.values import dataclass, replace

from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.lifecycle import release_run
from hostmanager_server.core.model import NOT_YET_OBSERVED, Instance, Instances, new_instance, successor_of
from hostmanager_server.core.plan import next_generation, retire
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Target


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes for a new config: changed and dropped instances, and log entries.

    The runs of dropped instances go on. Of the changed instances, `moved` differ only in their place.
    """

    changed: Mapping[str, Instance]
    entries: tuple[LogEntry, ...] = ()
    dropped: tuple[str, ...] = ()
    moved: frozenset[str] = frozenset()


def apply_config(instances: Instances, host: HostSpec, now: Instant) -> Plan:
    """Plan the change to a new config, as OCS's `update(reload_config)` does.

    New instances get their configured target, known instances keep theirs, missing instances retire, and a
    change of class or management resets an instance. Any other change takes effect with the next start, and
    shows as `restart_required` until then. A running service that enters or leaves the site config moves to
    another instance without a restart.
    """
    planner = _Planner(instances, host, now)
    for spec in host.instances:
        planner.take(spec)
    for instance_id in sorted(set(instances) - planner.listed):
        planner.leave_out(instance_id)
    return Plan(planner.changed, tuple(planner.entries), tuple(planner.dropped), frozenset(planner.moved))


class _Planner:
    """The plan for one new config while `apply_config` builds it."""

    def __init__(self, instances: Instances, host: HostSpec, now: Instant) -> None:
        self.changed: dict[str, Instance] = {}
        self.entries: list[LogEntry] = []
        self.dropped: list[str] = []
        self.moved: set[str] = set()
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
        elif old.retired:  # listed again before the old run has ended
            reason = f"{spec.full_name} is back in the config; being reset"
            self._change(_reset(old, spec), "Reset", reason)
        elif old.wanted.successor is not None and same_kind(old.wanted.successor, spec):
            if old.wanted.successor != spec:  # the reset to this kind is in progress already
                self.changed[spec.instance_id] = _with_successor(old, spec)
        elif moves_service(old.spec, spec):
            self._change(_with_running_service(old, spec), "TakenOver", _takeover_message(old.spec, spec))
        elif not same_kind(old.spec, spec):
            was = f"{old.spec.agent_class}, {old.spec.management.value}"
            to = f"{spec.agent_class}, {spec.management.value}"
            message = f"class or management changed ({was} -> {to}); being reset"
            self._change(_reset(old, spec), "Reset", message)
        elif old.spec != spec or old.wanted.successor is not None:
            if replace(old.spec, position=spec.position) == spec and old.wanted.successor is None:
                self.moved.add(spec.instance_id)
            self._respecify(old, spec)

    def leave_out(self, instance_id: str) -> None:
        """Plan for an instance that the new config does not list."""
        old = self._instances[instance_id]
        name = old.spec.full_name
        if old.spec.agent_class == UNCLAIMED or _service_key(old.spec) in self._served:
            # Another instance has the service now, or its containers are orphans.
            self.dropped.append(instance_id)
            self._entry("Dropped", f"{name} is no longer tracked under this name", instance_id)
        elif not old.retired:
            self._change(retire(old), "Retired", f"{name} is no longer in the config; being retired")

    def _add(self, spec: InstanceSpec) -> None:
        tracked = self._leaving.get(_service_key(spec)) if spec.service is not None else None
        if tracked is not None:
            self._change(
                _with_running_service(tracked, spec), "TakenOver", _takeover_message(tracked.spec, spec)
            )
        else:
            message = f"{spec.full_name} added, target {spec.initial_target.value}"
            self._change(new_instance(spec), "Added", message)

    def _respecify(self, old: Instance, spec: InstanceSpec) -> None:
        new = replace(old, spec=spec, wanted=replace(old.wanted, successor=None))
        if old.wanted.successor is not None:  # back from another kind: the configured target holds
            new = next_generation(replace(new, wanted=replace(new.wanted, target=spec.initial_target)), old)
        new = _with_service(new, old.spec)
        if spec.schedule != old.spec.schedule:  # the supervisor computes the next time
            new = replace(new, observed=replace(new.observed, next_run=None))
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


def moves_service(old: InstanceSpec, new: InstanceSpec) -> bool:
    """Return whether the instance's service enters or leaves the site config."""
    same = old.service is not None and _service_key(old) == _service_key(new)
    return same and (old.agent_class == UNCLAIMED) is not (new.agent_class == UNCLAIMED)


def _with_running_service(old: Instance, spec: InstanceSpec) -> Instance:
    """Return an instance for the running service of `old`."""
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


def _takeover_message(old: InstanceSpec, new: InstanceSpec) -> str:
    assert new.service is not None
    if new.agent_class == UNCLAIMED:
        return f"{old.full_name} left the site config; its service is passive from now on"
    return f"{new.full_name} manages service {new.service.service!r} from now on, without a restart"


def _with_service(new: Instance, old: InstanceSpec) -> Instance:
    """Release the former service, and wait for observations of the present one."""
    if _service_key(old) == _service_key(new.spec):
        return new
    new = release_run(new)
    why = NOT_YET_OBSERVED if new.spec.service is not None else ""
    return replace(new, observed=replace(new.observed, unobservable=why))


def same_kind(one: InstanceSpec, other: InstanceSpec) -> bool:
    """Return whether an instance keeps its run and its target when one spec replaces the other."""
    return one.agent_class == other.agent_class and one.management is other.management


def _reset(old: Instance, spec: InstanceSpec) -> Instance:
    bumped = next_generation(old, old)
    if old.observed.run is None and not old.observed.unobservable:
        return successor_of(bumped, spec, spec.initial_target)
    wanted = replace(bumped.wanted, management=old.spec.management, target=spec.initial_target)
    return _with_successor(replace(bumped, wanted=wanted), spec)


def _with_successor(instance: Instance, spec: InstanceSpec) -> Instance:
    return replace(instance, wanted=replace(instance.wanted, successor=spec))
