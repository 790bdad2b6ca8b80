"""One start of a compose service, and what its dependencies allow."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol

from hostmanager.values import dataclass, field

from hostmanager_server.core.events import RunKey
from hostmanager_server.core.spec import Condition, ServiceDependency, ServiceSpec
from hostmanager_server.drivers.compose.cli.creates import Creation
from hostmanager_server.drivers.compose.cli.process import ComposeCall
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.followed_service import FollowedService
from hostmanager_server.drivers.compose.service_containers import Key

# Ids, addresses and numbers, by which two texts about the same failure may differ.
_VARIABLE_PART = re.compile(r"\b(?=\w*\d)\w+\b")
_ENDED = ("exited", "dead")
_RECENT = 60.0  # s
_REMEMBERED = 8  # starts


class Abortable(Protocol):
    """An action that can be stopped."""

    def abort(self) -> None:
        """Stop the action; its outcome is of no interest any more."""


class StartPhase(Enum):
    """The progress of a start."""

    PREPARING = "preparing"  # unusable containers are removed, a missing image is pulled
    CREATING = "creating"  # compose makes missing containers
    WAITING = "waiting"  # for dependencies
    STARTING = "starting"  # the engine, or compose, starts the containers
    CONFIRMING = "confirming"  # until the engine watch shows the containers


@dataclass(eq=False, slots=True)
class Start:
    """The start of a service: for a launch, as a dependency of other starts, or both."""

    wanted: ServiceSpec
    launched: FollowedService | None = None  # the service and the run of a launch
    run: RunKey | None = None
    phase: StartPhase = StartPhase.PREPARING
    # The dependencies that this start has requested: None until one has started, then why that failed, or "".
    requested: dict[str, str | None] = field(default_factory=dict)
    bring: bool = True  # dependencies must still be requested
    makes_container: bool = False  # a container of the service is missing
    removed: set[str] = field(default_factory=set)  # ids of containers that were unusable
    fetched: bool = False
    renewed: bool = False
    existing: set[str] = field(default_factory=set)  # ids of containers from before the call of compose
    pending: int = 0  # actions of the engine that have not ended
    failure: str = ""  # of the first failed action
    failed: int = 0  # starts of containers that have failed
    refused: set[str] = field(default_factory=set)  # ids of containers that the engine refused to start
    before: dict[str, float | None] = field(default_factory=dict)  # the containers to start: their last start
    creation: Creation | None = None
    call: ComposeCall | None = None  # a start by compose
    fetch: Abortable | None = None  # a pull of the image
    cancelled: Callable[[], None] | None = None  # what follows when the running call has ended
    afterwards: list[Callable[[], None]] = field(default_factory=list)  # what waits for the end of this start

    @property
    def key(self) -> Key:
        """The compose project and the service name."""
        return self.wanted.project, self.wanted.service

    def begin(self, targets: Sequence[Container]) -> None:
        """Note that the engine will start these containers."""
        self.before = {container.id: container.started for container in targets}
        self.failure, self.failed = "", 0
        self.refused.clear()

    def refused_containers(self, containers: Sequence[Container]) -> tuple[list[Container], bool]:
        """Return the old containers that the engine refused to start, and whether it refused a new one."""
        refused = [c for c in containers if c.id in self.refused and not c.running]
        old = [c for c in refused if not self.makes_container or c.id in self.existing]
        return old, len(old) < len(refused)

    def confirmed(self, containers: Sequence[Container]) -> bool:
        """Return whether the engine watch shows the new runs of all started containers."""
        known = {container.id: container.started for container in containers}
        return all(known.get(each) != before for each, before in self.before.items())


@dataclass(frozen=True, slots=True)
class Outlook:
    """What dependencies mean for a start: why it fails, or what it waits for, or neither."""

    failure: str = ""
    waits_for: str = ""


def needs_start(dependency: ServiceDependency, containers: Sequence[Container], *, again: bool) -> bool:
    """Return whether a dependency must be started first.

    `again`: a dependency that has completed must run again, as with `docker compose up`.
    """
    if any(container.running for container in containers):
        return False
    return again or dependency.condition is not Condition.COMPLETED or not _completed(containers)


def outlook(
    start: Start,
    dependencies: Sequence[tuple[ServiceDependency, Sequence[Container]]],
    stopping: Collection[str],
) -> Outlook:
    """Return whether the dependencies of a start, given with their containers, let it go on.

    `stopping` names the dependencies that compose stops.
    """
    waits = []
    for dependency, containers in dependencies:
        name = dependency.service
        each = _outlook_of(dependency, containers, start.requested.get(name, ""))
        if each.failure and name in stopping:
            each = Outlook(failure=f"dependency {name!r} is stopped, by a request or as its target is down")
        if each.failure and dependency.required:
            return each
        if each.waits_for:
            waits.append(each.waits_for)
    return Outlook(waits_for=", ".join(waits))


def _outlook_of(
    dependency: ServiceDependency, containers: Sequence[Container], outcome: str | None
) -> Outlook:
    """Return the outlook by one dependency; `outcome` is that of its requested start."""
    name = dependency.service
    if outcome:
        return Outlook(failure=f"dependency {name!r}: {outcome}")
    running = [container for container in containers if container.running]
    match dependency.condition:
        case Condition.STARTED:
            return Outlook(waits_for=f"{name} to start") if outcome is None and not running else Outlook()
        case Condition.COMPLETED:
            if running or outcome is None:
                return Outlook(waits_for=f"{name} to complete")
            return Outlook() if _completed(containers) else Outlook(failure=_not_completed(name, containers))
        case Condition.HEALTHY:
            return _outlook_by_health(dependency, containers, running, outcome)


def _outlook_by_health(
    dependency: ServiceDependency,
    containers: Sequence[Container],
    running: Sequence[Container],
    outcome: str | None,
) -> Outlook:
    name = dependency.service
    if running and all(container.health == "healthy" for container in running):
        return Outlook()
    if running or outcome is None:
        unhealthy = any(container.health == "unhealthy" for container in running)
        if unhealthy and not dependency.required:
            return Outlook()
        return Outlook(waits_for=f"{name} to be healthy" + (" (unhealthy now)" if unhealthy else ""))
    codes = sorted({container.exit_code for container in containers})
    how = f" with code {codes[-1]}" if codes else ""
    return Outlook(failure=f"dependency {name!r} ended{how} before it was healthy")


def _completed(containers: Sequence[Container]) -> bool:
    return bool(containers) and all(c.status in _ENDED and c.exit_code == 0 for c in containers)


def _not_completed(name: str, containers: Sequence[Container]) -> str:
    codes = [container.exit_code for container in containers if container.exit_code]
    if not codes:
        return f"dependency {name!r} has not completed"
    return f"dependency {name!r} did not complete successfully: code {codes[0]}"


class RecentStarts:
    """The starts of the last minute, which show services that end or fail again and again."""

    def __init__(self) -> None:
        self._starts: dict[Key, list[float]] = {}

    def count(self, key: Key, now: float) -> int:
        """Count a start at `now` (mono, in s), and return the number of starts within a minute before."""
        before = [at for at in self._starts.get(key, ()) if now - at < _RECENT]
        self._starts[key] = [*before[-_REMEMBERED:], now]
        return len(before)


class KnownFailures:
    """The failures of new containers to start: another new container would fail in the same way."""

    def __init__(self) -> None:
        self._failures: dict[Key, tuple[ServiceSpec, str, str]] = {}

    def learn(self, wanted: ServiceSpec, image_id: str, why: str) -> None:
        """Note why a new container of the service cannot start."""
        self._failures[wanted.project, wanted.service] = (wanted, image_id, _VARIABLE_PART.sub("", why))

    def forget(self, key: Key) -> None:
        """Note that the service has started."""
        self._failures.pop(key, None)

    def renewal_helps(self, wanted: ServiceSpec, image_id: str, why: str) -> bool:
        """Return whether a new container may start where an old one failed."""
        known = self._failures.get((wanted.project, wanted.service))
        return known != (wanted, image_id, _VARIABLE_PART.sub("", why))


def siblings_of(wanted: ServiceSpec, siblings: Mapping[str, ServiceSpec]) -> list[
    tuple[ServiceDependency, ServiceSpec]
]:  # fmt: skip
    """Return the dependencies of a service with their definitions."""
    return [
        (dependency, siblings[dependency.service])
        for dependency in wanted.dependencies
        if dependency.service in siblings
    ]
