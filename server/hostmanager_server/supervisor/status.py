"""The published status of the manager: state, input files, orphans, problems."""

from __future__ import annotations

from enum import Enum

from hostmanager.values import replace

from hostmanager_server.core.announcements import (
    SiteConfig,
    catalog_entries,
    config_entries,
    events_entry,
    journal_entry,
    output_entry,
    parse_status,
    survey_entries,
)
from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import SCF, ManagerState, ManagerStatus, ParseStatus
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.spec import Management
from hostmanager_server.supervisor.reconciler import Reconciler


class StoredThing(Enum):
    """What the daemon keeps on disk; the values are keys of the problems of the manager."""

    JOURNAL = "journal"
    EVENTS = "events"


class StatusPublisher:
    """The owner of the manager's status.

    Each change, and its log entries, go into the next publication of the reconciler.
    """

    def __init__(self, status: ManagerStatus, reconciler: Reconciler) -> None:
        self._status = status
        self._reconciler = reconciler
        self._catalog = Catalog()
        self._survey = Survey()

    @property
    def disowned(self) -> frozenset[Management]:
        """The kinds of management that a stop leaves running."""
        return self._status.disowned

    @property
    def state(self) -> ManagerState:
        """The state of the manager."""
        return self._status.state

    @property
    def host(self) -> str:
        """The name of the host."""
        return self._status.host

    @property
    def catalog(self) -> Catalog:
        """The compose services that the manager knows."""
        return self._catalog

    def enter(self, state: ManagerState, entry: LogEntry, *, disowned: frozenset[Management]) -> None:
        """Move the manager to a state, and log the entry."""
        self._publish(replace(self._status, state=state, disowned=disowned))
        self._reconciler.log(entry)

    def take_config(self, config: SiteConfig, now: Instant, origin: Origin | None) -> None:
        """Record and log the result of a read of the site config; `origin` is that of the read."""
        status = ParseStatus(config.ok, now, config.problems)
        self._publish(replace(self._status, parse_status={**self._status.parse_status, SCF: status}))
        read, *problems = config_entries(config, now)
        self._reconciler.log(replace(read, origin=origin), *problems)

    def set_host(self, host: str) -> None:
        """Record the name of the host."""
        if host != self._status.host:
            self._publish(replace(self._status, host=host))

    def take_catalog(self, catalog: Catalog, now: Instant) -> None:
        """Record and log the content of the compose files."""
        before, self._catalog = self._catalog, catalog
        self._reconciler.log(*catalog_entries(before, catalog, now))
        self._update_compose_files(now)

    def take_survey(self, survey: Survey, now: Instant) -> None:
        """Record and log orphans, new tags and the engine's presence."""
        before, self._survey = self._survey, survey
        self._reconciler.log(*survey_entries(before, survey, now))
        self._publish(replace(self._status, orphans=survey.orphans, new_tags=survey.new_tags))
        self._update_compose_files(now)

    def take_problem(self, subject: StoredThing, problem: str, now: Instant) -> None:
        """Record that the disk refuses the journal or the events, or, with an empty `problem`, the recovery.

        A second failure for another reason gets no second log entry.
        """
        if not problem or not self._status.problems.get(subject.value):
            entry = journal_entry if subject is StoredThing.JOURNAL else events_entry
            self._reconciler.log(entry(problem, now))
        self._publish(replace(self._status, problems={**self._status.problems, subject.value: problem}))

    def take_output_problem(self, problem: str, now: Instant) -> None:
        """Record that a log directory cannot be used, or, with an empty `problem`, that all can."""
        if not problem or not self._status.problems.get("log-dir"):
            self._reconciler.log(output_entry(problem, now))
        self._publish(replace(self._status, problems={**self._status.problems, "log-dir": problem}))

    def _update_compose_files(self, now: Instant) -> None:
        known = self._status.parse_status
        status = parse_status(known, self._catalog, self._survey, now)
        if status != known:
            self._publish(replace(self._status, parse_status=status))

    def _publish(self, status: ManagerStatus) -> None:
        self._status = status
        self._reconciler.set_manager(status)
