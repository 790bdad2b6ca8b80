"""In-memory fakes for the supervisor: a site config and a journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType

from hostmanager_server.core.history import History
from hostmanager_server.core.manager_status import ManagerState, Problem
from hostmanager_server.core.model import Hold
from hostmanager_server.core.origin import RequestOrigins
from hostmanager_server.core.spec import HostSpec, Target


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """A loaded site config."""

    spec: HostSpec | None
    problems: tuple[Problem, ...] = ()
    file: str = "site.yaml"
    host: str = "host"
    left_out: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.spec is not None and not self.left_out


class MemoryJournal:
    """A journal in memory; each save counts as written at once."""

    def __init__(self) -> None:
        self.targets: dict[str, Target] = {}
        self.histories: dict[str, History] = {}
        self.origins: dict[str, RequestOrigins | None] = {}
        self.holds: dict[str, Hold] = {}

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] = MappingProxyType({}),
        histories: Mapping[str, History] = MappingProxyType({}),
        origins: Mapping[str, RequestOrigins | None] = MappingProxyType({}),
        forget: Sequence[str] = (),
        forget_histories: Sequence[str] = (),
        holds: Mapping[str, Hold | None] = MappingProxyType({}),
    ) -> Future[None]:
        self.targets |= targets
        self.histories |= histories
        self.origins |= origins
        for instance_id, hold in holds.items():
            self.holds.pop(instance_id, None)
            if hold is not None:
                self.holds[instance_id] = hold
        for instance_id in forget:
            self.targets.pop(instance_id, None)
        for instance_id in forget_histories:
            self.histories.pop(instance_id, None)
        return self._written()

    def _written(self) -> Future[None]:
        """Return a future that is done at once."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def listen(self, notify: Callable[[str], None]) -> None:
        """Ignore the listener: no write ever fails."""
