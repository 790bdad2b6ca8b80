"""What a supervisor deals with besides its drivers, in memory: a site config that was read, and a journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType

from hostmanager_server.core.history import History
from hostmanager_server.core.manager_status import ManagerState, Problem
from hostmanager_server.core.spec import HostSpec, Target


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """A site config as it was read."""

    spec: HostSpec | None
    problems: tuple[Problem, ...] = ()
    file: str = "site.yaml"
    host: str = "host"

    @property
    def ok(self) -> bool:
        return self.spec is not None


class MemoryJournal:
    """Keeps everything for as long as the test lasts; says at once that it is on disk."""

    def __init__(self) -> None:
        self.targets: dict[str, Target] = {}
        self.histories: dict[str, History] = {}

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] = MappingProxyType({}),
        histories: Mapping[str, History] = MappingProxyType({}),
        forget: Sequence[str] = (),
        forget_histories: Sequence[str] = (),
    ) -> Future[None]:
        self.targets |= targets
        self.histories |= histories
        for instance_id in forget:
            self.targets.pop(instance_id, None)
        for instance_id in forget_histories:
            self.histories.pop(instance_id, None)
        return self._written()

    def _written(self) -> Future[None]:
        """Done when all of that is on disk."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def listen(self, told: Callable[[str], None]) -> None:
        """Nothing ever goes wrong."""
