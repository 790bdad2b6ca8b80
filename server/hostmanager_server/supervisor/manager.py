"""The manager: what requests, configs and what an earlier daemon left make of the instances.

Everything here runs on the supervisor's thread, or in a test that plays that thread. A method raises a
RequestError when it rejects a request; then nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NoReturn

from hostmanager_server.core import announcements, plan
from hostmanager_server.core.actions import listed
from hostmanager_server.core.announcements import SiteConfig, config_entries, journal_entry
from hostmanager_server.core.catalog import Catalog, with_services
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import SCF, ManagerState, ManagerStatus, ParseStatus
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.recovery import (
    Recovered,
    ended_without_daemon,
    keep_running_if_journal_lost,
    recover_runs,
    recover_targets,
)
from hostmanager_server.core.spec import HostSpec, Management, Target
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.errors import (
    Accepted,
    AdoptionError,
    ConfigError,
    InvalidRequestError,
    WrongStateError,
    answer,
)
from hostmanager_server.supervisor.persistence import JournalWriter, Persistence
from hostmanager_server.supervisor.reconciler import Reconciler


class RequestHandler:
    """Owns the manager's state. One for each engine.

    `left` is what an earlier daemon left behind; it takes effect with the first good config.
    `manage` is told of every catalog of compose services, before instances are made of it.
    """

    def __init__(
        self,
        engine: Reconciler,
        store: Store,
        journal: JournalWriter,
        now: Callable[[], Instant],
        left: Recovered,
        manage: Callable[[Catalog], None] | None = None,
    ) -> None:
        self._engine = engine
        self._manage = manage
        self._store = store
        self._memory = Persistence(journal, left)
        self._lost = left.lost  # until that has been seen to
        self._now = now
        self._manager: ManagerStatus = store.snapshot().manager
        self._stopped: list[Future[Accepted]] = []  # who waits for the manager to be stopped
        self._adopted = False
        self._site: HostSpec | None = None  # what the last good site config says, without compose services
        self._catalog = Catalog()
        self._survey = Survey()

    # --- requests

    def start(
        self,
        config: SiteConfig | None,
        changes: Sequence[TargetChange],
        tolerant: bool,
        catalog: Catalog | None = None,
    ) -> Accepted:
        """Start. `tolerant`: when the config has errors run with what it said before, else with no instances,
        instead of refusing."""
        if self._manager.state is not ManagerState.STOPPED:
            raise WrongStateError("start the manager", self._manager.state, "stop it first")
        if config is not None and not config.ok and not tolerant:
            self._reject(config)
        known: set[str] = set()
        if config is None:
            known = set(self._engine.instances)
        elif config.spec is not None:
            known = self.ids_of(config.spec, catalog)
        _raise_if(plan.check_targets(known, changes))

        moment = self._now()
        self._set_manager(replace(self._manager, state=ManagerState.RUNNING, disowned=frozenset()))
        self._engine.log(LogEntry(EntryKind.MANAGER, "Started", "the manager runs", moment))
        if config is not None:
            if self._adopted:
                self._engine.drop(self._engine.instances)
            self._take_config(config, catalog, moment)
        else:
            self._enforce(True)
            self._apply_specs(moment)  # compose files may have changed while the manager slept
        generations = self._set_targets(changes, moment)
        self._spare(moment)
        # What ended while no daemon was there is not to be shown as up for a moment.
        self._engine.settle(ended_without_daemon(self._engine.instances))
        return Accepted(self._engine.publish(), generations, config.problems if config else ())

    def update(
        self,
        config: SiteConfig | None,
        changes: Sequence[TargetChange],
        validate_only: bool,
        catalog: Catalog | None = None,
        ids: set[str] | None = None,
    ) -> Accepted:
        """Take the config, when there is one, then the changes, in order; all or nothing. `ids` are those
        that the config makes, when they are known already."""
        if self._manager.state is not ManagerState.RUNNING:
            raise WrongStateError("update", self._manager.state, "start it with StartManager")
        known = {i.instance_id for i in self._engine.instances.values() if not i.retired}
        if config is not None:
            if not config.ok:
                if validate_only:
                    raise ConfigError(config.file, config.problems)
                self._reject(config)
            assert config.spec is not None
            known = self.ids_of(config.spec, catalog) if ids is None else ids
        _raise_if(plan.check_targets(known, changes))
        warnings = config.problems if config is not None else ()
        if validate_only:
            return Accepted(self._store.revision, {}, warnings)
        moment = self._now()
        if config is not None:
            self._take_config(config, catalog, moment)
            self._spare(moment)
        generations = self._set_targets(changes, moment)
        return Accepted(self._engine.publish(), generations, warnings)

    def restart(self, instance_ids: Sequence[str] | None) -> Accepted:
        """Down and up again; None: all that can be."""
        if self._manager.state is not ManagerState.RUNNING:
            raise WrongStateError("restart", self._manager.state, "start it with StartManager")
        instances = self._engine.instances
        if instance_ids is None:
            chosen = [i for i in sorted(instances) if not plan.check_restart(instances, [i])]
        else:
            _raise_if(plan.check_restart(instances, instance_ids))
            chosen = list(dict.fromkeys(instance_ids))
        changed = plan.restart(instances, chosen)
        message = f"restart of {listed(chosen) or 'nothing'}"
        self._engine.apply(changed, [LogEntry(EntryKind.REQUEST, "Restart", message, self._now())])
        return Accepted(self._engine.publish(), {i: changed[i].wanted.generation for i in chosen})

    def stop(self, future: Future[Accepted], disown: Iterable[Management] = ()) -> None:
        """Bring everything down; the future is done when everything is. What is managed in one of the ways in
        `disown` is left running, only observed until the daemon ends, for the next one to take over."""
        moment = self._now()
        if self._manager.state is ManagerState.RUNNING:
            try:
                self._adopt(HostSpec(self._manager.host), moment)
            except AdoptionError as error:
                future.set_exception(error)
                return
        self._stopped.append(future)
        if self._manager.state is ManagerState.RUNNING:
            disowned = frozenset(disown)
            self._set_manager(replace(self._manager, state=ManagerState.STOPPING, disowned=disowned))
            self._engine.log(
                LogEntry(EntryKind.MANAGER, "Stopping", "everything is being brought down", moment)
            )
            self._disown(disowned)
            down = [
                TargetChange(i.instance_id, Target.DOWN)
                for i in self._engine.instances.values()
                if i.wanted.target is not Target.PASSIVE
            ]
            self._engine.apply(plan.set_targets(self._engine.instances, down))
            self.save()
        # Whether that is done already, `finish_stopping` finds out after this round.
        elif self._manager.state is ManagerState.STOPPED:
            self._answer_stopped(self._store.revision)

    def finish_stopping(self) -> None:
        """To be called after every round of the engine: a manager that is stopping has stopped when all is
        down."""
        if self._manager.state is not ManagerState.STOPPING:
            return
        left = [
            i
            for i in self._engine.instances.values()
            if i.wanted.target is not Target.PASSIVE
            and (i.observed.run is not None or i.observed.out_of_sight)
        ]
        if any(not i.observed.out_of_sight for i in left):
            return
        moment = self._now()
        for i in left:  # an engine that is gone for good must not keep a host from going down
            message = f"left as it is, running or not: {i.observed.out_of_sight}"
            self._engine.log(
                LogEntry(EntryKind.STOP, "OutOfSight", message, moment, i.instance_id, Severity.ERROR)
            )
        self._enforce(False)
        self._set_manager(replace(self._manager, state=ManagerState.STOPPED))
        what = "everything is down" if not left else "everything that can be seen is down"
        self._engine.log(LogEntry(EntryKind.MANAGER, "Stopped", f"{what}; the manager sleeps", moment))
        self._answer_stopped(self._engine.publish())

    def _enforce(self, enforced: bool) -> None:
        """Whether targets are, or only what is is shown."""
        self._engine.apply(plan.enforce(self._engine.instances, enforced=enforced))

    def _disown(self, management: frozenset[Management]) -> None:
        if not management:
            return
        left = [i for i in self._engine.instances.values() if i.spec.management in management]
        self._memory.disown({i.instance_id: i.wanted.target for i in left if not i.retired})
        self._engine.apply({i.instance_id: plan.observe(i) for i in left})

    def _answer_stopped(self, revision: int) -> None:
        waiting, self._stopped = self._stopped, []
        stored = self.save()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                answer(future, Accepted(revision), stored)

    # --- the config

    def _reject(self, config: SiteConfig) -> NoReturn:
        self._note_config(config, self._now())
        self._engine.publish()
        raise ConfigError(config.file, config.problems)

    def ids_of(self, site: HostSpec, catalog: Catalog | None) -> set[str]:
        """The instances that a site config makes with these compose services (None: those that are known)."""
        return {spec.instance_id for spec in with_services(site, catalog or self._catalog).instances}

    def _take_config(self, config: SiteConfig, catalog: Catalog | None, moment: Instant) -> None:
        self._note_config(config, moment)
        if catalog is not None:
            self._note_catalog(catalog, moment)
        if config.spec is None:
            return
        if config.host != self._manager.host:
            self._set_manager(replace(self._manager, host=config.host))
        self._site = config.spec
        self._apply_specs(moment)
        left = self._memory.to_restore(self._engine.instances)
        self._engine.apply(*recover_targets(self._engine.instances, *left, moment))

    def _apply_specs(self, moment: Instant) -> None:
        if self._site is None:
            return
        host = with_services(self._site, self._catalog)
        self._adopt(host, moment)
        changes = plan.apply_config(self._engine.instances, host, moment)
        self._engine.drop(changes.dropped)  # first: others take over what they leave
        self._engine.apply(changes.changed, changes.entries)

    # --- compose services

    def take_catalog(self, catalog: Catalog) -> None:
        """A compose file was changed."""
        moment = self._now()
        self._note_catalog(catalog, moment)
        if self._manager.state is ManagerState.RUNNING:
            self._apply_specs(moment)
        self._engine.publish()

    def take_survey(self, survey: Survey) -> None:
        """What the engine has beside the services is other than before."""
        moment = self._now()
        before, self._survey = self._survey, survey
        self._engine.log(*announcements.survey_entries(before, survey, moment))
        self._set_manager(replace(self._manager, orphans=survey.orphans, new_tags=survey.new_tags))
        self._show_compose_files(moment)

    def _note_catalog(self, catalog: Catalog, moment: Instant) -> None:
        before, self._catalog = self._catalog, catalog
        if self._manage is not None:
            self._manage(catalog)
        self._engine.log(*announcements.catalog_entries(before, catalog, moment))
        self._show_compose_files(moment)

    def _show_compose_files(self, moment: Instant) -> None:
        known = self._manager.parse_status
        status = announcements.parse_status(known, self._catalog, self._survey, moment)
        if status != known:
            self._set_manager(replace(self._manager, parse_status=status))

    def _note_config(self, config: SiteConfig, moment: Instant) -> None:
        status = ParseStatus(config.ok, moment, config.problems)
        self._set_manager(replace(self._manager, parse_status={**self._manager.parse_status, SCF: status}))
        self._engine.log(*config_entries(config, moment))

    def _adopt(self, host: HostSpec, moment: Instant) -> None:
        """Take back, once, what an earlier daemon left running. Not before a config says what is known: what
        it does not list would be retired. Raises AdoptionError."""
        if self._adopted:
            return
        specs = {spec.instance_id: spec for spec in host.instances}
        try:
            adopted = self._engine.driver.adopt(specs)
        except OSError as error:
            raise AdoptionError(error) from error
        self._adopted = True
        found, entries = recover_runs(adopted, specs, self._memory.left, moment)
        self._engine.apply(found, entries)

    def _spare(self, moment: Instant) -> None:
        if self._lost and self._adopted:
            self._engine.apply(*keep_running_if_journal_lost(self._engine.instances, self._lost, moment))
            self._lost = ""

    def _set_targets(self, changes: Sequence[TargetChange], moment: Instant) -> dict[str, int]:
        if not changes:
            return {}
        changed = plan.set_targets(self._engine.instances, changes)
        asked = listed([f"{change.who} {change.target.value}" for change in changes])
        self._engine.apply(changed, [LogEntry(EntryKind.REQUEST, "Update", f"targets: {asked}", moment)])
        return {instance_id: instance.wanted.generation for instance_id, instance in changed.items()}

    # --- what outlives the daemon

    def save(self) -> Future[None] | None:
        """Store what is to outlive the daemon and is not on disk yet; None when all of it is."""
        instances = self._engine.instances if self._adopted else None  # before, nothing is known of any
        return self._memory.save(self._manager.state, instances, self._engine.histories_moved())

    def save_decisions(self) -> None:
        """Store what the engine's last round made of the instances, without waiting for it."""
        if self._engine.targets_moved():  # the next daemon is not to carry them out again
            self.save()
        elif moved := self._engine.histories_moved():
            self._memory.save_histories(self._engine.instances, moved)

    def keep_targets(self) -> None:
        """What comes from now on, which is the end, is not to outlive the daemon."""
        self._memory.keep()

    def take_journal_problem(self, problem: str) -> None:
        """The journal has begun to fail, for this reason; or works again, when there is none."""
        if not (
            problem and self._manager.problems.get("journal")
        ):  # else it fails in another way than before
            self._engine.log(journal_entry(problem, self._now()))
        self._set_manager(replace(self._manager, problems={**self._manager.problems, "journal": problem}))
        self._engine.publish()

    def _set_manager(self, manager: ManagerStatus) -> None:
        self._manager = manager
        self._engine.set_manager(manager)


def _raise_if(bad: list[plan.BadEntry]) -> None:
    if bad:
        raise InvalidRequestError(bad)
