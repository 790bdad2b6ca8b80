"""Announcements: event log entries about files, the engine and the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import SCF, ParseStatus, Problem
from hostmanager_server.core.spec import HostSpec


def journal_entry(problem: str, moment: Instant) -> LogEntry:
    """The journal has begun to fail, for this reason; or works again, when there is none."""
    if problem:
        return LogEntry(EntryKind.DAEMON, "JournalFailed", problem, moment, severity=Severity.ERROR)
    message = "the journal is written again: all that was asked for is on disk"
    return LogEntry(EntryKind.DAEMON, "JournalRecovered", message, moment)


def catalog_entries(before: Catalog, after: Catalog, moment: Instant) -> Iterator[LogEntry]:
    """What a new catalog says that the one before did not."""
    for file, problems in after.problems.items():
        if before.problems.get(file) == problems:
            continue
        if _usable(problems):
            yield LogEntry(EntryKind.CONFIG, "ConfigRead", f"read {file}", moment)
        else:
            message = f"cannot use {file}; what it last said stays in force"
            yield LogEntry(EntryKind.CONFIG, "ConfigRejected", message, moment, severity=Severity.ERROR)
        for problem in problems:
            yield LogEntry(EntryKind.CONFIG, "ConfigProblem", str(problem), moment, severity=problem.severity)


def survey_entries(before: Survey, after: Survey, moment: Instant) -> Iterator[LogEntry]:
    """What a new survey of the engine says that the one before did not."""
    if after.problem and after.problem != before.problem:
        yield LogEntry(EntryKind.DAEMON, "EngineLost", after.problem, moment, severity=Severity.ERROR)
    elif before.problem and not after.problem:
        yield LogEntry(EntryKind.DAEMON, "EngineBack", "the docker engine answers again", moment)
    for container_id, orphan in after.orphans.items():
        if container_id not in before.orphans:
            message = (
                f"container {container_id[:12]} is an orphan: "
                f"service {orphan.service!r} is not in {orphan.compose_file}"
            )
            yield LogEntry(EntryKind.DAEMON, "OrphanFound", message, moment, severity=Severity.WARNING)


def parse_status(
    known: Mapping[str, ParseStatus], catalog: Catalog, survey: Survey, moment: Instant
) -> dict[str, ParseStatus]:
    """How the input files were read, as OCS shows it: that of a compose file fails as well when the states of
    its services cannot be known. What has not changed keeps its time."""
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
            status[file] = ParseStatus(_usable(all_problems), moment, all_problems)
    return status


def _usable(problems: tuple[Problem, ...]) -> bool:
    return all(problem.severity is not Severity.ERROR for problem in problems)


class SiteConfig(Protocol):
    """A site config as it was read. With errors it is not `ok`; `spec` is None then, or what it said before
    it had them."""

    @property
    def spec(self) -> HostSpec | None: ...
    @property
    def ok(self) -> bool: ...
    @property
    def problems(self) -> tuple[Problem, ...]: ...
    @property
    def file(self) -> str: ...
    @property
    def host(self) -> str: ...


def config_entries(config: SiteConfig, moment: Instant) -> Iterator[LogEntry]:
    """How the reading went."""
    if config.ok:
        yield LogEntry(EntryKind.CONFIG, "ConfigRead", f"read {config.file}", moment)
    else:
        message = f"cannot use {config.file}; the last good config stays in force"
        yield LogEntry(EntryKind.CONFIG, "ConfigRejected", message, moment, severity=Severity.ERROR)
    for problem in config.problems:
        yield LogEntry(EntryKind.CONFIG, "ConfigProblem", str(problem), moment, severity=problem.severity)
