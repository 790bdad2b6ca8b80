"""Index of the engine's service containers by id and by service."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager_server.drivers.compose.engine.container import Container

Key = tuple[str, str]  # project, service


class ServiceContainers:
    """The latest facts of all service containers."""

    def __init__(self) -> None:
        self._by_id: dict[str, Container] = {}
        self._ids_by_service: dict[Key, dict[str, None]] = {}

    def reset(self, containers: Iterable[Container]) -> None:
        """Replace all containers."""
        self._by_id.clear()
        self._ids_by_service.clear()
        for container in containers:
            self.put(container)

    def put(self, container: Container) -> None:
        """Add a container, or replace its facts."""
        self._by_id[container.id] = container
        self._ids_by_service.setdefault((container.project, container.service), {})[container.id] = None

    def remove(self, container_id: str) -> Key | None:
        """Remove a container; return its service, or None for an unknown id."""
        container = self._by_id.pop(container_id, None)
        if container is None:
            return None
        key = (container.project, container.service)
        self._ids_by_service[key].pop(container_id, None)
        return key

    def knows(self, container_id: str) -> bool:
        """Return whether a container exists."""
        return container_id in self._by_id

    def of_service(self, key: Key) -> list[Container]:
        """Return the containers of a service, in the order of their first notifications."""
        return [self._by_id[container_id] for container_id in self._ids_by_service.get(key, ())]

    def all(self) -> list[Container]:
        """Return the containers of all services."""
        return list(self._by_id.values())
