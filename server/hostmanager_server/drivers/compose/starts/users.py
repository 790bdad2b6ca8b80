"""Services that must restart with another service, because they build upon its containers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.service_containers import Key

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


class ServiceUsers:
    """The latest starts of all services, and which runs are too old for them.

    The time of a start is the start of the oldest running container, so that the restart of one of several
    replicas does not count.
    """

    def __init__(self) -> None:
        self._starts: dict[Key, float] | None = None  # None: the engine has not been listed

    def reset(self, containers: Iterable[Container]) -> Mapping[Key, float]:
        """Take a complete list; return the services that have started since the last list.

        The first list returns none: a new daemon restarts nothing.
        """
        by_key: dict[Key, list[Container]] = {}
        for container in containers:
            by_key.setdefault((container.project, container.service), []).append(container)
        first = self._starts is None
        if self._starts is None:
            self._starts = {}
        started: dict[Key, float] = {}
        for key, mine in by_key.items():
            started.update(self.changed(key, mine))
        return {} if first else started

    def changed(self, key: Key, containers: Sequence[Container]) -> Mapping[Key, float]:
        """Take the present containers of a service; return its start, if the service has started again."""
        starts = [c.started for c in containers if c.running and c.started is not None]
        if not starts or self._starts is None or min(starts) <= self._starts.get(key, 0.0):
            return {}
        self._starts[key] = min(starts)
        return {key: min(starts)}

    @staticmethod
    def why_outdated(
        wanted: ServiceSpec, containers: Sequence[Container], started: Mapping[Key, float]
    ) -> str:
        """Return why the running containers of a service must restart; empty: they need not."""
        starts = [c.started for c in containers if c.running and c.started is not None]
        for dependency in wanted.dependencies if starts else ():
            at = started.get((wanted.project, dependency.service))
            if dependency.restart and at is not None and min(starts) < at:
                return f"{dependency.service} has started again: restarting {wanted.service} with it"
        return ""


def used_containers(container: Container) -> set[str]:
    """Return the ids of the containers whose namespaces or volumes a container uses."""
    return set(_CONTAINER_ID.findall(str(container.shared)))
