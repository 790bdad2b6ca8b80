"""Persistence of requests and histories: the changes that the journal must store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from hostmanager_server.core.history import History, adds_nothing, histories_of
from hostmanager_server.core.holds import holds_of
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Hold, Instances
from hostmanager_server.core.origin import RequestOrigins
from hostmanager_server.core.plan import request_origins, requested_targets
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import Target


class JournalWriter(Protocol):
    """The journal, which keeps requests and histories for the next daemon.

    The journal repeats failed writes without a further call.
    """

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] = ...,
        histories: Mapping[str, History] = ...,
        origins: Mapping[str, RequestOrigins | None] = ...,
        forget: Sequence[str] = ...,
        forget_histories: Sequence[str] = ...,
        holds: Mapping[str, Hold | None] = ...,
    ) -> Future[None]:
        """Store a change, and return at once; origins of None are deleted.

        The future is done when the change and all earlier changes are on disk.
        """

    def listen(self, notify: Callable[[str], None]) -> None:
        """Call `notify` on another thread when writing begins to fail, or works again.

        The argument is a sentence with the cause, and empty once writing works again.
        """


class Persistence:
    """A filter before the journal, which receives only changes."""

    def __init__(self, journal: JournalWriter, recovered: Recovered) -> None:
        self._journal = journal
        self._recovered = recovered
        self._state: ManagerState | None = None
        self._targets = dict(recovered.targets)
        self._histories = dict(recovered.histories)
        self._origins = dict(recovered.origins)
        self._holds = dict(recovered.holds)
        self._last: Future[None] | None = None
        self._recheck: tuple[str, ...] = ()  # ids with a history that may differ from the journal's
        self._closed = False

    @property
    def recovered(self) -> Recovered:
        """The content of the earlier daemon's journal; empty after `take_recovered`."""
        return self._recovered

    def take_recovered(self) -> Recovered:
        """Return the content of the earlier journal once; nothing afterwards."""
        recovered, self._recovered = self._recovered, Recovered()
        self._recheck = tuple(recovered.histories)
        return recovered

    def save(
        self, state: ManagerState, instances: Instances | None, changed_histories: Iterable[str] = ()
    ) -> Future[None] | None:
        """Store the state of the manager, all targets, and the changed histories.

        Returns None if everything is on disk already. `instances` is None before the daemon has recovered the
        earlier daemon's runs, as the instances are unknown until then.
        """
        if self._closed:
            return None
        if instances is None:
            return self._write(state, self._targets, {}, self._holds)
        recheck, self._recheck = self._recheck, ()
        histories = histories_of(instances, {*recheck, *changed_histories})
        origins = request_origins(instances)
        return self._write(state, requested_targets(instances), histories, holds_of(instances), origins)

    def save_histories(self, instances: Instances, changed_histories: Iterable[str]) -> None:
        """Store the histories of these instances, without waiting."""
        if not self._closed:
            self._write(None, self._targets, histories_of(instances, changed_histories), self._holds)

    def close(self) -> None:
        """Ignore all later changes: the next daemon recovers the present targets."""
        self._closed = True

    def disown(self, targets: Mapping[str, Target]) -> None:
        """Store only these targets, with their histories, and ignore all later changes."""
        if self._closed:
            return
        self._closed = True
        others = {instance_id: None for instance_id in self._histories if instance_id not in targets}
        self._write(ManagerState.RUNNING, dict(targets), others, self._holds)

    def _write(
        self,
        state: ManagerState | None,
        targets: dict[str, Target],
        histories: Mapping[str, History | None],
        holds: dict[str, Hold],
        origins: dict[str, RequestOrigins] | None = None,
    ) -> Future[None] | None:
        """Give changes to the journal; origins of None are unchanged."""
        manager = None if state is self._state else state
        changed, forgotten = self._target_changes(targets)
        new, forgotten_histories = self._history_changes(histories)
        new_origins = self._origin_changes(origins)
        changed_holds = self._hold_changes(holds)
        others = (changed, forgotten, new, forgotten_histories, new_origins, changed_holds)
        if manager is None and not any(others):
            return self._unfinished()
        self._state = state or self._state
        self._targets = targets
        self._holds = holds
        self._origins = self._origins if origins is None else origins
        self._histories.update(new)
        for instance_id in forgotten_histories:
            del self._histories[instance_id]
        self._last = self._journal.save(
            manager=manager,
            targets=changed,
            histories=new,
            origins=new_origins,
            forget=forgotten,
            forget_histories=forgotten_histories,
            holds=changed_holds,
        )
        return self._last

    def _target_changes(self, targets: dict[str, Target]) -> tuple[dict[str, Target], list[str]]:
        if targets is self._targets:
            return {}, []
        changed = {
            instance_id: target
            for instance_id, target in targets.items()
            if self._targets.get(instance_id) is not target
        }
        return changed, [instance_id for instance_id in self._targets if instance_id not in targets]

    def _origin_changes(self, origins: dict[str, RequestOrigins] | None) -> dict[str, RequestOrigins | None]:
        if origins is None:
            return {}
        changed: dict[str, RequestOrigins | None] = {
            instance_id: given
            for instance_id, given in origins.items()
            if self._origins.get(instance_id) is not given
        }
        return changed | dict.fromkeys(i for i in self._origins if i not in origins)

    def _hold_changes(self, holds: dict[str, Hold]) -> dict[str, Hold | None]:
        if holds is self._holds:
            return {}
        changed: dict[str, Hold | None] = {n: hold for n, hold in holds.items() if self._holds.get(n) != hold}
        return changed | {name: None for name in self._holds if name not in holds}

    def _history_changes(
        self, histories: Mapping[str, History | None]
    ) -> tuple[dict[str, History], list[str]]:
        known = self._histories
        new = {
            instance_id: history
            for instance_id, history in histories.items()
            if history is not None
            and not (instance_id in known and adds_nothing(known[instance_id], history))
        }
        forgotten = [
            instance_id
            for instance_id, history in histories.items()
            if history is None and instance_id in known
        ]
        return new, forgotten

    def _unfinished(self) -> Future[None] | None:
        """Return the future of an unfinished write, or None if everything is on disk."""
        if self._last is None or not self._last.done():
            return self._last
        if self._last.exception() is not None:
            self._last = self._journal.save()  # done when the repeated write of the journal succeeds
            return self._last
        self._last = None
        return None
