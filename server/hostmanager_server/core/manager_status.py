"""The manager as operators see it, apart from its instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from hostmanager_server.core.compose import Orphan
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.spec import Management


class ManagerState(Enum):
    """What the reconcile loop is at."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong (ERROR: the file is not used) or worth a WARNING in an input file.

    `line` and `column` count from 1; 0 when the problem has no place in the file.
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
    """How the last read of an input file went."""

    success: bool
    at: Instant
    problems: tuple[Problem, ...] = ()

    @property
    def message(self) -> str:
        return "\n".join(map(str, self.problems))


# OCS's name for the site config file among the input files.
SCF = "[SCF]"


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """The manager's state, and how its input files were read."""

    state: ManagerState
    host: str
    site_config_file: str
    parse_status: Mapping[str, ParseStatus] = field(default_factory=dict)
    orphans: Mapping[str, Orphan] = field(default_factory=dict)  # by container id
    new_tags: Mapping[str, str] = field(default_factory=dict)  # tags the engine has not, by instance id
    problems: Mapping[str, str] = field(default_factory=dict)  # of the daemon itself: a sentence, or none
    disowned: frozenset[Management] = frozenset()  # what is not brought down as it stops
