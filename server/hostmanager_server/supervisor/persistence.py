"""What is to outlive the daemon, on its way to the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from hostmanager_server.core.history import History, adds_nothing, history_of
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.plan import Instances, TargetChange
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import Target


class JournalWriter(Protocol):
    """Where what was asked for outlives the daemon. What could not be stored is tried again by itself."""

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] = ...,
        histories: Mapping[str, History] = ...,
        forget: Sequence[str] = ...,
        forget_histories: Sequence[str] = ...,
    ) -> Future[None]:
        """Store a change; the future is done when it, and all before it, is on disk. Returns at once."""

    def listen(self, told: Callable[[str], None]) -> None:
        """Have `told` called, on another thread, when storing begins to fail, with a sentence that says why;
        and with nothing when it works again."""


class Persistence:
    """Gives the journal what differs from what was given to it before."""

    def __init__(self, journal: JournalWriter, left: Recovered) -> None:
        self._journal = journal
        self._restore = left
        self._state: ManagerState | None = None
        self._targets = dict(left.targets)
        self._histories = dict(left.histories)
        self._last: Future[None] | None = None
        self._recheck: tuple[str, ...] = ()  # whose histories may not be what the journal has
        self._closed = False

    @property
    def left(self) -> Recovered:
        """What an earlier daemon left, until it is recover_targets."""
        return self._restore

    def to_restore(self, instances: Instances) -> tuple[list[TargetChange], Mapping[str, History]]:
        """The changes that give the instances the targets that an earlier daemon was asked for, and what it
        knew of them. Once: nothing after that."""
        left, self._restore = self._restore, Recovered()
        self._recheck = tuple(left.histories)
        targets = [
            TargetChange(instance_id, target)
            for instance_id, target in sorted(left.targets.items())
            if (i := instances.get(instance_id)) is not None
            and target is not Target.PASSIVE
            and i.spec.initial_target is not target
        ]
        return targets, {i: history for i, history in left.histories.items() if i in instances}

    def save(
        self, state: ManagerState, instances: Instances | None, moved: Iterable[str] = ()
    ) -> Future[None] | None:
        """Store what was not stored yet: of the histories, those of the instances in `moved`. None when all
        of it is on disk. `instances` are None as long as nothing is known of any."""
        if self._closed:
            return None
        targets = self._targets
        if instances is not None:
            targets = {i.instance_id: i.wanted.target for i in instances.values() if not i.retired}
        if instances is None:
            return self._write(state, targets, {})
        recheck, self._recheck = self._recheck, ()
        return self._write(state, targets, _histories(instances, {*recheck, *moved}))

    def save_histories(self, instances: Instances, moved: Iterable[str]) -> None:
        """Store what became of these, without waiting for it."""
        if not self._closed:
            self._write(None, self._targets, _histories(instances, moved))

    def keep(self) -> None:
        """Store nothing any more: the next daemon is to find everything as it was asked to be."""
        self._closed = True

    def disown(self, targets: Mapping[str, Target]) -> None:
        """Store that these, and only these, are left to the next daemon, and nothing that comes after: it is
        to find them as they were asked to be."""
        if self._closed:
            return
        self._closed = True
        others = {i: None for i in self._histories if i not in targets}
        self._write(ManagerState.RUNNING, dict(targets), others)

    def _write(
        self, state: ManagerState | None, targets: dict[str, Target], histories: Mapping[str, History | None]
    ) -> Future[None] | None:
        changed: dict[str, Target] = {}
        gone: list[str] = []
        if targets is not self._targets:
            changed = {i: target for i, target in targets.items() if self._targets.get(i) is not target}
            gone = [instance_id for instance_id in self._targets if instance_id not in targets]
        manager = None if state is self._state else state
        known = self._histories
        told = {
            i: h
            for i, h in histories.items()
            if h is not None and not (i in known and adds_nothing(known[i], h))
        }
        forgotten = [i for i, h in histories.items() if h is None and i in known]
        if manager is None and not changed and not gone and not told and not forgotten:
            return self._unsettled()
        self._state = state or self._state
        self._targets = targets
        known.update(told)
        for instance_id in forgotten:
            del known[instance_id]
        self._last = self._journal.save(
            manager=manager, targets=changed, histories=told, forget=gone, forget_histories=forgotten
        )
        return self._last

    def _unsettled(self) -> Future[None] | None:
        """When all that was given to the journal is on disk; None: it is."""
        if self._last is None or not self._last.done():
            return self._last
        if self._last.exception() is not None:
            self._last = self._journal.save()  # it has what it could not write: is that on disk by now?
            return self._last
        self._last = None
        return None


def _histories(instances: Instances, moved: Iterable[str]) -> dict[str, History | None]:
    return {
        instance_id: history_of(i) if (i := instances.get(instance_id)) is not None else None
        for instance_id in moved
    }
