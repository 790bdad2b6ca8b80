"""Interfaces between the compose driver and the engine watch.

The driver starts an EngineWatcher and asks for refreshes; the watcher notifies the driver, as its
EngineListener, of containers and images. Tests replace EngineWatch by a watcher on an engine in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from hostmanager_server.drivers.compose.engine.container import Container

__all__ = ["EngineListener", "EngineWatcher"]


class EngineWatcher(Protocol):
    """The engine watch as the driver uses it; implemented by EngineWatch."""

    def start(self) -> None:
        """Start watching. The first notification is `synced` or `engine_lost`."""

    def close(self) -> None:
        """Stop watching. The listener gets no notification after this call."""

    def watch_projects(self, projects: frozenset[str]) -> None:
        """Watch the containers of these compose projects from now on, and no other containers.

        `synced` follows when the containers of new projects are known.
        """

    def watch_images(self, tags: frozenset[str]) -> None:
        """Watch these image tags from now on, and no other tags."""

    def refresh(self, project: str, then: Callable[[], None] | None = None) -> None:
        """Inspect the containers of a project, then call `then` on the supervisor thread."""


class EngineListener(Protocol):
    """The receiver of notifications.

    Methods run on the supervisor thread, in the order of events.
    """

    def synced(
        self, projects: frozenset[str], containers: Sequence[Container], images: Mapping[str, str]
    ) -> None:
        """Replace all known facts after a new connection to the engine, or a change of the watched projects.

        `containers` holds every service container of `projects`. `images` maps each watched tag to its image
        id, or to UNKNOWN_IMAGE where the engine has no such image.
        """

    def container_changed(self, container: Container) -> None:
        """Take the newest facts of a new or known container.

        Each start and each end is a separate notification, however quickly they follow each other.
        """

    def container_removed(self, container_id: str) -> None:
        """Forget a container that the engine removed."""

    def images_changed(self, ids: Mapping[str, str]) -> None:
        """Replace the image ids of all watched tags.

        The mapping is complete, as in `synced`.
        """

    def engine_lost(self, why: str) -> None:
        """Treat all facts as outdated until the next `synced`.

        The watcher calls again when the reason changes.
        """
