"""The changes that a new site config makes to the tracked instances, as operators read them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from hostmanager.values import dataclass

from hostmanager_server.core.config_plan import Plan, moves_service, same_kind
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, Instances
from hostmanager_server.core.spec import InstanceSpec, Target
from hostmanager_server.core.spec_differences import KeyChange, definition_differs, differences, shortened

# The most that one answer lists: some 30 kB, and 300 kB with the longest texts.
MAX_CHANGES = 200
MAX_KEYS = 8
MAX_MESSAGE = 200  # characters


class ChangeKind(Enum):
    """What happens to an instance."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"  # other settings, the run goes on
    REPLACED = "replaced"  # another class or management: the run is stopped


@dataclass(frozen=True, slots=True)
class InstanceChange:
    """The effect of a new config on one instance.

    `stops`: the change stops a live run, or a run that may be alive while the real state is unknown.
    `started` is the start of the live run.
    """

    instance_id: str
    kind: ChangeKind
    agent_class: str
    target: Target
    stops: bool = False
    started: Instant | None = None
    restart_required: bool = False
    keys: tuple[KeyChange, ...] = ()
    more_keys: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """All changes of a new config: at most MAX_CHANGES listed, those that stop a run first.

    `more` is the number of the others, `stopping` the number of all changes that stop a run.
    """

    listed: tuple[InstanceChange, ...] = ()
    more: int = 0
    stopping: int = 0


NO_CHANGES = ConfigChanges()

_NO = "nothing"  # the value of a setting that is not there

# Log entries whose message operators need, as the kind of the change does not tell the effect.
_TOLD = frozenset({"TakenOver", "Dropped", "ServiceGone"})


def changes_of(instances: Instances, plan: Plan) -> ConfigChanges:
    """Return the changes of a plan for a new config to the tracked instances."""
    changed = [each for each in plan.changed if each not in plan.moved]
    ids = [*changed, *(each for each in plan.dropped if each not in plan.changed)]
    if not ids:
        return NO_CHANGES
    stopping = {each for each in changed if _stops(instances.get(each), plan.changed[each])}
    ids.sort(key=lambda each: (each not in stopping, each))
    told = {entry.instance_id: entry.message for entry in plan.entries if entry.reason in _TOLD}
    listed = tuple(
        _change(each, instances.get(each), plan.changed.get(each), told.get(each, ""))
        for each in ids[:MAX_CHANGES]
    )
    return ConfigChanges(listed, len(ids) - len(listed), len(stopping))


def changed_entries(changes: ConfigChanges, now: Instant) -> Iterator[LogEntry]:
    """Yield an entry for each listed instance with differing settings: the cause of a later failure."""
    for change in changes.listed:
        if change.keys:
            keys = [f"{each.key}: {each.before or _NO} -> {each.after or _NO}" for each in change.keys]
            more = [f"and {change.more_keys} more"] if change.more_keys else []
            message = "; ".join((*keys, *more))
            yield LogEntry(EntryKind.INSTANCE, "Changed", message, now, change.instance_id)


def _change(instance_id: str, old: Instance | None, new: Instance | None, told: str) -> InstanceChange:
    last = new or old
    assert last is not None
    spec = _coming(last)
    before = _coming(old) if old is not None and not old.retired else None
    kind = _kind(old, new)
    keys: list[KeyChange] = []
    if before is not None and kind in (ChangeKind.CHANGED, ChangeKind.REPLACED):
        keys = list(differences(before, spec))
    return InstanceChange(
        instance_id=instance_id,
        kind=kind,
        agent_class=shortened(spec.agent_class),
        target=last.wanted.target,
        stops=new is not None and _stops(old, new),
        started=old.observed.run.started if old is not None and old.observed.run is not None else None,
        restart_required=kind is ChangeKind.CHANGED and new is not None and _restart_required(old, new),
        keys=tuple(keys[:MAX_KEYS]),
        more_keys=max(0, len(keys) - MAX_KEYS),
        message=shortened(told or _remark(old, kind, spec), MAX_MESSAGE),
    )


def _kind(old: Instance | None, new: Instance | None) -> ChangeKind:
    if new is None or new.retired:
        return ChangeKind.REMOVED
    if old is None or old.retired:
        return ChangeKind.ADDED
    before, after = _coming(old), _coming(new)
    kept = same_kind(before, after) or moves_service(before, after)
    return ChangeKind.CHANGED if kept else ChangeKind.REPLACED


def _coming(instance: Instance) -> InstanceSpec:
    """Return the spec that holds once every accepted change has taken effect."""
    return instance.wanted.successor or instance.spec


def _stops(old: Instance | None, new: Instance) -> bool:
    """Return whether the change, and no earlier request, stops a run."""
    if old is None or (old.observed.run is None and not old.observed.unobservable):
        return False
    return new.should_stop and not old.should_stop


def _restart_required(old: Instance | None, new: Instance) -> bool:
    if old is None or old.observed.run is None:
        return False
    was, now = old.spec.service, new.spec.service
    if was is not None and now is not None:
        # The engine's word on the new definition comes later.
        return was.image != now.image or definition_differs(was, now) or new.restart_required
    return new.restart_required


def _remark(old: Instance | None, kind: ChangeKind, spec: InstanceSpec) -> str:
    if kind is ChangeKind.REMOVED:
        return old.observed.unobservable if old is not None else ""
    if old is not None and old.retired:
        return "back in the config; starts once the old run has ended"
    return spec.problem
