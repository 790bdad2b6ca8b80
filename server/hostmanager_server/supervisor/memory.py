"""What was asked for, as far as it outlives the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from hostmanager_server.core.manager import ManagerState
from hostmanager_server.core.plan import Instances, TargetChange
from hostmanager_server.core.spec import Target


class Journal(Protocol):
    """Where what was asked for outlives the daemon."""

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] | None = None,
        forget: Sequence[str] = (),
    ) -> Future[None]:
        """Store a change; the future is done when it is on disk. Returns at once."""


class Memory:
    """Writes to the journal what differs from what it has. `restore` holds the targets of an earlier daemon
    that died."""

    def __init__(self, journal: Journal, restore: Mapping[str, Target]) -> None:
        self._journal = journal
        self._restore = dict(restore)
        self._state: ManagerState | None = None
        self._targets = dict(restore)
        self._disowned = False

    @property
    def restored(self) -> Mapping[str, Target]:
        """The targets of the daemon that died, until they are restored."""
        return self._restore

    def to_restore(self, instances: Instances) -> list[TargetChange]:
        """The targets of the daemon that died that are not those of the config. Once: not again after."""
        restore, self._restore = self._restore, {}
        return [
            TargetChange(instance_id, target)
            for instance_id, target in sorted(restore.items())
            if (i := instances.get(instance_id)) is not None
            and target is not Target.PASSIVE
            and i.spec.initial_target is not target
        ]

    def save(self, state: ManagerState, instances: Instances | None) -> Future[None] | None:
        """Store what is not on disk yet; None when all of it is. `instances` are None as long as nothing is
        known of any."""
        if self._disowned:
            return None
        targets = self._targets
        if instances is not None:
            targets = {i.instance_id: i.target for i in instances.values() if not i.retired}
        return self._write(state, targets)

    def disown(self, targets: Mapping[str, Target]) -> Future[None] | None:
        """Store that these, and only these, are left to the next daemon, and nothing that comes after: it is
        to find them as they were asked to be."""
        self._disowned = True
        return self._write(ManagerState.RUNNING, dict(targets))

    def _write(self, state: ManagerState, targets: dict[str, Target]) -> Future[None] | None:
        changed = {i: target for i, target in targets.items() if self._targets.get(i) is not target}
        gone = [instance_id for instance_id in self._targets if instance_id not in targets]
        manager = None if state is self._state else state
        if manager is None and not changed and not gone:
            return None
        self._state, self._targets = state, targets
        return self._journal.save(manager=manager, targets=changed, forget=gone)
