"""Interfaces of the starter, and the facts that decide what a start must do first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.core.spec import PullPolicy, ServiceSpec
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.service_containers import Key
from hostmanager_server.drivers.compose.service_status import container_differs
from hostmanager_server.drivers.compose.starts.start import Abortable, Start

_GONE_SOON = ("removing", "dead")  # the engine's words for containers that it could not remove yet

# Receives why the action failed, or the empty string, and whether the engine itself refused.
ActionDone = Callable[[str, bool], None]


class Actions(Protocol):
    """Actions on containers and images, as the starter uses them; implemented by EngineActions."""

    def start(self, container_id: str, done: ActionDone, *, repeated: bool) -> None:
        """Start a container, a `repeated` one after others, and call `done` on the supervisor thread."""

    def remove(self, container_id: str, done: ActionDone) -> None:
        """Remove a container that does not run, and call `done` on the supervisor thread."""

    def fetch(self, image: str, platform: str, done: ActionDone) -> Abortable:
        """Pull an image unless the engine has it, and call `done` on the supervisor thread."""

    def signal(self, container_ids: Sequence[str], signum: int, done: Callable[[str], None]) -> None:
        """Signal the main processes of containers; call `done` with why that failed, or an empty text."""

    def close(self) -> None:
        """Abort all waits for the engine."""


class Facts(Protocol):
    """The facts that decide about starts, as the driver knows them."""

    def containers_of(self, key: Key) -> Sequence[Container]:
        """Return the containers of a service, running or not."""

    def image_id(self, tag: str) -> str:
        """Return the id of an image, or UNKNOWN_IMAGE."""

    def siblings(self, wanted: ServiceSpec) -> Mapping[str, ServiceSpec]:
        """Return the services of the same files, by name."""

    def is_stopping(self, key: Key) -> bool:
        """Return whether compose removes the containers of a service."""

    def references_gone(self, wanted: ServiceSpec, container: Container) -> bool:
        """Return whether a container uses namespaces or volumes of a container that is gone."""


def must_fetch(wanted: ServiceSpec, facts: Facts) -> bool:
    """Return whether the image of a service must be there before compose makes a container."""
    missing = facts.image_id(wanted.image) == UNKNOWN_IMAGE
    pulled = wanted.pull_policy not in (PullPolicy.NEVER, PullPolicy.BUILD) and not wanted.built
    return missing and pulled


def missing_services(start: Start, facts: Facts) -> frozenset[str]:
    """Return the services without all their containers, of the service and its dependencies."""
    siblings = facts.siblings(start.wanted)
    found: set[str] = set()
    visited: set[str] = set()
    queue = [start.wanted]
    while queue:
        each = queue.pop()
        if each.service in visited:
            continue
        visited.add(each.service)
        containers = facts.containers_of((each.project, each.service))
        if sum(c.id not in start.removed for c in containers) < each.replicas:
            found.add(each.service)
        queue.extend(siblings[name] for name in each.depends_on if name in siblings)
    return frozenset(found)


def is_unusable(start: Start, container: Container, facts: Facts) -> bool:
    """Return whether a container that does not run must be replaced.

    A container of a launch is replaced, too, if its definition or its image has changed, unless others of the
    service run. Containers of dependencies stay as they are.
    """
    if container.running or container.status == "paused":
        return False
    if container.unstartable or container.status in _GONE_SOON:
        return True
    if facts.references_gone(start.wanted, container):
        return True
    image_id = facts.image_id(start.wanted.image)
    if start.launched is None or start.launched.running or image_id == UNKNOWN_IMAGE:
        return False
    return container_differs(start.wanted, container, image_id)
