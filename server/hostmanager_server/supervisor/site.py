"""The site config as the manager takes it, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hostmanager_server.core.actions import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import HostSpec


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


def config_news(config: SiteConfig, moment: Instant) -> Iterator[LogEntry]:
    """How the reading went."""
    if config.ok:
        yield LogEntry(EntryKind.CONFIG, "ConfigRead", f"read {config.file}", moment)
    else:
        message = f"cannot use {config.file}; the last good config stays in force"
        yield LogEntry(EntryKind.CONFIG, "ConfigRejected", message, moment, severity=Severity.ERROR)
    for problem in config.problems:
        yield LogEntry(EntryKind.CONFIG, "ConfigProblem", str(problem), moment, severity=problem.severity)
