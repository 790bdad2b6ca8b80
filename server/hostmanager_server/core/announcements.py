"""Event log entries about input files, the Docker engine and the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from hostmanager_server.core.actions import listed
from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import SCF, ParseStatus, Problem
from hostmanager_server.core.spec import HostSpec


class SiteConfig(Protocol):
    """A site config after reading.

    `ok` is False if the config has errors. Then `spec` holds the last good config, or the entries without
    errors if `left_out` names the others, or None.
    """

    @property
    def spec(self) -> HostSpec | None:
        """The instances of the host."""

    @property
    def ok(self) -> bool:
        """True without errors; warnings do not count."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The entries with errors: their ids, or places in words."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All errors and warnings."""

    @property
    def file(self) -> str:
        """The path of the file."""

    @property
    def host(self) -> str:
        """The name of the host."""


def journal_entry(problem: str, now: Instant) -> LogEntry:
    """Return the entry for a failing journal, or, without a problem, a recovered one."""
    if problem:
        return LogEntry(EntryKind.DAEMON, "JournalFailed", problem, now, severity=Severity.ERROR)
    message = "the journal works again: every request is on disk"
    return LogEntry(EntryKind.DAEMON, "JournalRecovered", message, now)


def events_entry(problem: str, now: Instant) -> LogEntry:
    """Return the entry for events that cannot be kept on disk, or, without a problem, are kept again."""
    if problem:
        return LogEntry(EntryKind.DAEMON, "EventsNotKept", problem, now, severity=Severity.ERROR)
    return LogEntry(EntryKind.DAEMON, "EventsKeptAgain", "events are kept on disk again", now)


def output_entry(problem: str, now: Instant) -> LogEntry:
    """Return the entry for a log directory that cannot be used, or, without a problem, can be again."""
    if problem:
        return LogEntry(EntryKind.DAEMON, "LogDirUnusable", problem, now, severity=Severity.ERROR)
    message = "all output goes to its log directory again"
    return LogEntry(EntryKind.DAEMON, "LogDirBack", message, now)


def config_entries(config: SiteConfig, now: Instant) -> Iterator[LogEntry]:
    """Yield the entries about a read of the site config."""
    if config.ok:
        yield LogEntry(EntryKind.CONFIG, "ConfigRead", f"read {config.file}", now)
    elif config.spec is not None and config.left_out:
        message = f"{config.file} has errors, and runs without these entries: {listed(config.left_out)}"
        yield LogEntry(EntryKind.CONFIG, "ConfigPartial", message, now, severity=Severity.ERROR)
    else:
        message = f"cannot use {config.file}: the file has errors; the last good config stays in force"
        yield LogEntry(EntryKind.CONFIG, "ConfigRejected", message, now, severity=Severity.ERROR)
    for problem in config.problems:
        yield LogEntry(EntryKind.CONFIG, "ConfigProblem", str(problem), now, severity=problem.severity)


def catalog_entries(before: Catalog, after: Catalog, now: Instant) -> Iterator[LogEntry]:
    """Yield entries about compose files with other problems than before."""
    for file, problems in after.problems.items():
        if before.problems.get(file) == problems:
            continue
        if _usable(problems):
            yield LogEntry(EntryKind.CONFIG, "ConfigRead", f"read {file}", now)
        else:
            message = f"cannot use {file}: the file has errors; its last good content stays in force"
            yield LogEntry(EntryKind.CONFIG, "ConfigRejected", message, now, severity=Severity.ERROR)
        for problem in problems:
            yield LogEntry(EntryKind.CONFIG, "ConfigProblem", str(problem), now, severity=problem.severity)


def survey_entries(before: Survey, after: Survey, now: Instant) -> Iterator[LogEntry]:
    """Yield entries about the engine's loss or return, and about new orphans."""
    if after.problem and after.problem != before.problem:
        yield LogEntry(EntryKind.DAEMON, "EngineLost", after.problem, now, severity=Severity.ERROR)
    elif before.problem and not after.problem:
        yield LogEntry(EntryKind.DAEMON, "EngineBack", "the docker engine answers again", now)
    for container_id, orphan in after.orphans.items():
        if container_id not in before.orphans:
            message = (
                f"container {container_id[:12]} is an orphan: "
                f"service {orphan.service!r} is not in {orphan.compose_file}"
            )
            yield LogEntry(EntryKind.DAEMON, "OrphanFound", message, now, severity=Severity.WARNING)


def parse_status(
    known: Mapping[str, ParseStatus], catalog: Catalog, survey: Survey, now: Instant
) -> dict[str, ParseStatus]:
    """Return the parse status of every input file, by file name, as in OCS.

    While the engine cannot report the states of services, each compose file fails as well. An unchanged
    status keeps its time.
    """
    status = {name: each for name, each in known.items() if name == SCF}
    for file, problems in catalog.problems.items():
        if survey.problem:
            all_problems = (*problems, Problem(Severity.ERROR, survey.problem, file))
        else:
            all_problems = problems
        before = known.get(file)
        if before is not None and before.problems == all_problems:
            status[file] = before
        else:
            status[file] = ParseStatus(_usable(all_problems), now, all_problems)
    return status


def _usable(problems: tuple[Problem, ...]) -> bool:
    return all(problem.severity is not Severity.ERROR for problem in problems)
