"""Requests to the manager: start, stop and update.

All code here runs on the supervisor thread, or in a test that plays this thread. A method that rejects a
request raises a RequestError, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import NoReturn

from hostmanager.values import replace

from hostmanager_server.core import config_plan, holds, plan
from hostmanager_server.core.actions import listed
from hostmanager_server.core.announcements import SiteConfig
from hostmanager_server.core.catalog import Catalog, with_services
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.config_changes import NO_CHANGES, ConfigChanges, changed_entries, changes_of
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Instance
from hostmanager_server.core.origin import MOST_DETAIL, Origin, OriginKind
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.recovery import Recovered, ended_without_daemon
from hostmanager_server.core.selection import resolve_changes
from hostmanager_server.core.spec import HostSpec, Management
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.answers import answer_when_stored
from hostmanager_server.supervisor.errors import (
    Accepted,
    AdoptionError,
    ConfigError,
    WrongStateError,
    accepted,
    raise_if,
    validated,
)
from hostmanager_server.supervisor.instance_requests import InstanceRequests
from hostmanager_server.supervisor.persistence import JournalWriter, Persistence
from hostmanager_server.supervisor.reconciler import Reconciler
from hostmanager_server.supervisor.run_recovery import Recovery
from hostmanager_server.supervisor.status import StatusPublisher, StoredThing


class RequestHandler:
    """The manager, which carries out requests on the instances of a reconciler.

    `recovered` is the content of the earlier daemon's journal, and takes effect with the first good config.
    `manage` receives every catalog of compose services before the reconciler tracks their instances.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        store: Store,
        journal: JournalWriter,
        now: Callable[[], Instant],
        recovered: Recovered,
        manage: Callable[[Catalog], None] | None = None,
    ) -> None:
        self._reconciler = reconciler
        self._store = store
        self._persistence = Persistence(journal, recovered)
        self._recovery = Recovery(reconciler, self._persistence)
        self._status = StatusPublisher(store.snapshot().manager, reconciler)
        self._now = now
        self.of_instances = InstanceRequests(reconciler, self._require_running, now)
        self._manage = manage
        self._stop_requests: list[Future[Accepted]] = []  # answered when the manager has stopped
        self._site: HostSpec | None = None  # the last good site config, without compose services

    # --- requests

    def start(
        self,
        config: SiteConfig | None,
        changes: Sequence[TargetChange],
        *,
        tolerant: bool = False,
        catalog: Catalog | None = None,
        origin: Origin | None = None,
    ) -> Accepted:
        """Start the manager, with a new config and target changes if given.

        A config with errors leads to ConfigError; if `tolerant`, the manager runs with the last good config,
        or without instances. Raises WrongStateError unless the manager is stopped, and InvalidRequestError.
        """
        if self._status.state is not ManagerState.STOPPED:
            raise WrongStateError("start the manager", self._status.state, "stop it first")
        if config is not None and not config.ok and not tolerant:
            self._reject(config, origin)
        known: set[str] = set()
        if config is None:
            known = set(self._reconciler.instances)
        elif config.spec is not None:
            known = self.ids_of(config.spec, catalog)
        changes = self._resolve(changes, config.spec if config is not None else None, catalog)
        raise_if(plan.check_targets(known, changes, self._reconciler.instances.values()))

        now = self._now()
        origin = origin or Origin(OriginKind.DAEMON, now)
        entry = LogEntry(EntryKind.MANAGER, "Started", "the manager is running", now, origin=origin)
        self._status.enter(ManagerState.RUNNING, entry, disowned=frozenset())
        if config is not None:
            held = holds.holds_of(self._reconciler.instances)
            if self._recovery.recovered_runs:
                self._reconciler.drop(self._reconciler.instances)
            self._take_config(config, catalog, origin, now)
            self._reconciler.apply(holds.keep_holds(self._reconciler.instances, held))
        else:
            self._enforce(enforced=True)
            self._apply_specs(origin, now)  # compose files may have changed while the manager was stopped
        changed = self._set_targets(changes, origin, now)
        self._recovery.keep_running_if_journal_lost(now)
        # Instances that ended while no daemon ran must not appear as up, even for a moment.
        self._reconciler.settle(ended_without_daemon(self._reconciler.instances))
        return accepted(self._reconciler.publish(), changed, config.problems if config else ())

    def update(
        self,
        config: SiteConfig | None,
        changes: Sequence[TargetChange],
        *,
        validate_only: bool = False,
        catalog: Catalog | None = None,
        ids: set[str] | None = None,
        origin: Origin | None = None,
    ) -> Accepted:
        """Apply the config, if given, then the target changes in order; all or nothing.

        `ids` are the instances of the config, if the caller knows them already. With `validate_only`, only
        checks the request. Raises WrongStateError unless the manager is running, ConfigError, and
        InvalidRequestError.
        """
        self._require_running("update")
        known = {i.instance_id for i in self._reconciler.instances.values() if not i.retired}
        if config is not None:
            if not config.ok:
                if validate_only:
                    raise ConfigError(config.file, config.problems)
                self._reject(config, origin)
            assert config.spec is not None
            known = self.ids_of(config.spec, catalog) if ids is None else ids
        changes = self._resolve(changes, config.spec if config is not None else None, catalog)
        raise_if(plan.check_targets(known, changes, self._reconciler.instances.values()))
        warnings = config.problems if config is not None else ()
        if validate_only:
            return validated(self._store.revision, self._reconciler.instances, changes, known, warnings)
        now = self._now()
        origin = origin or Origin(OriginKind.DAEMON, now)
        made = NO_CHANGES
        if config is not None:
            made = self._take_config(config, catalog, origin, now)
            self._recovery.keep_running_if_journal_lost(now)
        changed = self._set_targets(changes, origin, now)
        return accepted(self._reconciler.publish(), changed, warnings, made)

    def preview(self, site: HostSpec, catalog: Catalog | None) -> ConfigChanges:
        """Return the changes that a good config with these compose services would make now."""
        host = with_services(site, catalog or self._status.catalog)
        instances = self._reconciler.instances
        return changes_of(instances, config_plan.apply_config(instances, host, self._now()))

    def _resolve(
        self, changes: Sequence[TargetChange], site: HostSpec | None, catalog: Catalog | None
    ) -> Sequence[TargetChange]:
        """Return the changes with ids in place of selectors.

        A new site config, if given, decides which instances have the classes and labels of the selectors.
        """
        if not any(change.selector or change.failing for change in changes):
            return changes
        host = with_services(site, catalog or self._status.catalog) if site is not None else None
        resolved, bad = resolve_changes(changes, host, self._reconciler.instances)
        raise_if(bad)
        return resolved

    def stop(
        self, future: Future[Accepted], disown: Iterable[Management] = (), origin: Origin | None = None
    ) -> None:
        """Stop all instances; the future is done when all are down.

        Instances with a management in `disown` run on: they become passive, and the next daemon recovers
        them. The future fails with AdoptionError if the runs of an earlier daemon cannot be recovered.
        """
        now = self._now()
        if self._status.state is ManagerState.RUNNING:
            try:
                self._recovery.recover_runs(HostSpec(self._status.host), now)
            except AdoptionError as error:
                future.set_exception(error)
                return
        self._stop_requests.append(future)
        if self._status.state is ManagerState.RUNNING:
            disowned = frozenset(disown)
            origin = origin or Origin(OriginKind.DAEMON, now)
            entry = LogEntry(EntryKind.MANAGER, "Stopping", "stopping all instances", now, origin=origin)
            self._status.enter(ManagerState.STOPPING, entry, disowned=disowned)
            self._disown(disowned)
            self._reconciler.apply(plan.stop_all(self._reconciler.instances, origin))
            self.save()  # `finish_stopping` answers after this round, even if all instances are down already
        elif self._status.state is ManagerState.STOPPED:
            self._answer_stop_requests(self._store.revision)

    def finish_stopping(self) -> None:
        """Complete a stop once all instances are down.

        The supervisor calls this method after every round. An instance that the engine cannot observe does
        not hold up the stop: otherwise an engine that never returns would keep the host from shutting down.
        """
        if self._status.state is not ManagerState.STOPPING:
            return
        remaining = plan.remaining(self._reconciler.instances)
        if any(not instance.observed.unobservable for instance in remaining):
            return
        now = self._now()
        for instance in remaining:
            message = f"cannot tell whether the instance stopped: {instance.observed.unobservable}"
            entry = LogEntry(EntryKind.STOP, "OutOfSight", message, now, instance.instance_id, Severity.ERROR)
            self._reconciler.log(entry)
        self._enforce(enforced=False)
        down = "all observable instances are down" if remaining else "all instances are down"
        entry = LogEntry(EntryKind.MANAGER, "Stopped", f"{down}; the manager is stopped", now)
        self._status.enter(ManagerState.STOPPED, entry, disowned=self._status.disowned)
        self._answer_stop_requests(self._reconciler.publish())

    def _require_running(self, what: str) -> None:
        if self._status.state is not ManagerState.RUNNING:
            raise WrongStateError(what, self._status.state, "start it with StartManager")

    def _enforce(self, *, enforced: bool) -> None:
        self._reconciler.apply(plan.enforce(self._reconciler.instances, enforced=enforced))

    def _disown(self, management: frozenset[Management]) -> None:
        if not management:
            return
        disowned = [i for i in self._reconciler.instances.values() if i.spec.management in management]
        self._persistence.disown({i.instance_id: i.wanted.target for i in disowned if not i.retired})
        self._reconciler.apply({i.instance_id: plan.observe(i) for i in disowned})

    def _answer_stop_requests(self, revision: int) -> None:
        waiting, self._stop_requests = self._stop_requests, []
        stored = self.save()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                answer_when_stored(future, Accepted(revision), stored)

    # --- the config

    def _reject(self, config: SiteConfig, origin: Origin | None) -> NoReturn:
        self._status.take_config(config, self._now(), origin)
        self._reconciler.publish()
        raise ConfigError(config.file, config.problems)

    def ids_of(self, site: HostSpec, catalog: Catalog | None) -> set[str]:
        """Return the ids of all instances of a site config with these compose services.

        Without a catalog, the services are those of the present one.
        """
        host = with_services(site, catalog or self._status.catalog)
        return {spec.instance_id for spec in host.instances}

    def _take_config(
        self, config: SiteConfig, catalog: Catalog | None, origin: Origin, now: Instant
    ) -> ConfigChanges:
        self._status.take_config(config, now, origin)
        if catalog is not None:
            self._use_catalog(catalog, now)
        if config.spec is None:
            return NO_CHANGES
        self._status.set_host(config.host)
        self._site = config.spec
        made = self._apply_specs(origin.of_config(config.file), now)
        self._recovery.recover_targets(now)
        return made

    def _apply_specs(self, origin: Origin, now: Instant) -> ConfigChanges:
        if self._site is None:
            return NO_CHANGES
        host = with_services(self._site, self._status.catalog)
        self._recovery.recover_runs(host, now)
        planned = config_plan.apply_config(self._reconciler.instances, host, now)
        made = changes_of(self._reconciler.instances, planned)
        self._reconciler.drop(planned.dropped)  # first: other instances take over the released services
        changed = plan.with_target_origin(self._reconciler.instances, planned.changed, origin)
        entries = (*planned.entries, *changed_entries(made, now))
        self._reconciler.apply(changed, (replace(entry, origin=origin) for entry in entries))
        return made

    def _set_targets(
        self, changes: Sequence[TargetChange], origin: Origin, now: Instant
    ) -> dict[str, Instance]:
        if not changes:
            return {}
        changed = plan.set_targets(self._reconciler.instances, changes, origin)
        targets = listed([f"{change.instance_id} {change.target.value}" for change in changes])
        entry = LogEntry(EntryKind.REQUEST, "Update", f"targets: {targets}", now, origin=origin)
        self._reconciler.apply(changed, [entry])
        return changed

    # --- compose services

    def take_catalog(self, catalog: Catalog) -> None:
        """Apply the changed content of the compose files."""
        now = self._now()
        self._use_catalog(catalog, now)
        if self._status.state is ManagerState.RUNNING:
            files = ", ".join(sorted(catalog.problems))
            self._apply_specs(Origin(OriginKind.FILE, now, detail=files[:MOST_DETAIL]), now)
        self._reconciler.publish()

    def take_survey(self, survey: Survey) -> None:
        """Publish changed orphans, new tags, or the loss or return of the engine."""
        self._status.take_survey(survey, self._now())

    def _use_catalog(self, catalog: Catalog, now: Instant) -> None:
        self._status.take_catalog(catalog, now)
        if self._manage is not None:
            self._manage(catalog)

    # --- the journal

    def save(self) -> Future[None] | None:
        """Store all changes for the next daemon; None if everything is on disk already."""
        instances = self._reconciler.instances if self._recovery.recovered_runs else None
        histories = self._reconciler.take_changed_histories()
        return self._persistence.save(self._status.state, instances, histories)

    def save_decisions(self) -> None:
        """Store the targets and histories that the last round changed, without waiting.

        The next daemon must not repeat a request that a passive instance has carried out.
        """
        if self._reconciler.take_targets_changed():
            self.save()
        elif changed := self._reconciler.take_changed_histories():
            self._persistence.save_histories(self._reconciler.instances, changed)

    def keep_targets(self) -> None:
        """Store no later change: the next daemon recovers the present targets."""
        self._persistence.close()

    def take_output_problem(self, problem: str) -> None:
        """Publish that a log directory cannot be used, or, with an empty `problem`, that all can."""
        self._status.take_output_problem(problem, self._now())
        self._reconciler.publish()

    def take_problem(self, subject: StoredThing, problem: str) -> None:
        """Publish that the disk refuses to keep something, or, with an empty `problem`, the recovery."""
        self._status.take_problem(subject, problem, self._now())
        self._reconciler.publish()
