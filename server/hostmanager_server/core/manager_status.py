"""The status of the manager: its state, input files, orphans and problems."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from hostmanager.values import dataclass, field

from hostmanager_server.core.compose import Orphan
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.spec import Management


class ManagerState(Enum):
    """The state of the reconcile loop; the values are words of the wire contract."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning about an input file; a file with an error is not used.

    `line` and `column` count from 1, and are 0 for a problem of the whole file.
    """

    severity: Severity
    message: str
    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.severity.value}: {self.message}"


@dataclass(frozen=True, slots=True)
class ParseStatus:
    """The result of the last read of an input file."""

    success: bool
    at: Instant
    problems: tuple[Problem, ...] = ()

    @property
    def message(self) -> str:
        """All problems, one a line."""
        return "\n".join(map(str, self.problems))


# OCS's name for the site config file among the input files.
SCF = "[SCF]"


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """The manager as operators see it, apart from the instances."""

    state: ManagerState
    host: str
    site_config_file: str
    parse_status: Mapping[str, ParseStatus] = field(default_factory=dict)
    orphans: Mapping[str, Orphan] = field(default_factory=dict)  # by container id
    new_tags: Mapping[str, str] = field(default_factory=dict)  # tags to pull, by instance id
    problems: Mapping[str, str] = field(default_factory=dict)  # of the daemon, by subject; empty: solved
    disowned: frozenset[Management] = frozenset()  # kinds that a stop leaves running
