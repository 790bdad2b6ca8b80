"""Comparison of containers with the present contents of their secrets and configs."""

from __future__ import annotations

from collections.abc import Collection

from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.engine.container import Container


class ContentBaselines:
    """The contents with which the containers of a service started.

    Containers have no label about contents. A container that started after the last change of its files has
    their present contents; for a later change the digests decide. For contents that compose copied into a
    container, the digest at the first sight of the container counts.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[str, float], str] = {}  # by id and start
        self._inline: dict[str, str] = {}  # by id

    def differs(self, wanted: ServiceSpec, containers: Collection[Container]) -> bool:
        """Return whether any running container has other contents than `wanted`."""
        present = {container.id for container in containers}
        self._files = {key: digest for key, digest in self._files.items() if key[0] in present}
        self._inline = {key: digest for key, digest in self._inline.items() if key in present}
        differing = [each for each in containers if each.running and self._differs(wanted, each)]
        return bool(differing)

    def _differs(self, wanted: ServiceSpec, container: Container) -> bool:
        contents, started = wanted.contents, container.started
        if self._inline.setdefault(container.id, contents.inline) != contents.inline:
            return True
        if not contents.files or started is None:
            return False
        key = container.id, started
        if contents.changed <= started:
            self._files[key] = contents.files
        return self._files.get(key) != contents.files
