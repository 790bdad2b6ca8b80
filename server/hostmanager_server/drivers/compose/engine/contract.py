"""What the compose driver needs of the watch on the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from hostmanager_server.drivers.compose.engine.container import Container

__all__ = ["EngineListener", "EngineWatcher"]


class EngineWatcher(Protocol):
    """See EngineWatch."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def want_images(self, tags: frozenset[str]) -> None: ...
    def refresh(self, project: str, then: Callable[[], None] | None = None) -> None: ...


UNKNOWN_IMAGE = "unknown"  # OCS's word, for the id of an image that the engine does not have


class EngineListener(Protocol):
    """Who is told. Methods are called on the supervisor thread, in the order of what happened."""

    def synced(self, containers: Sequence[Container], images: Mapping[str, str]) -> None:
        """In touch, for the first time or again. These are all containers of compose services, and the
        image id of each wanted tag, UNKNOWN_IMAGE where the engine has none."""

    def changed(self, container: Container) -> None:
        """The newest facts of a new or known container. A start and an end are told one by one, however
        quickly they follow each other."""

    def gone(self, container_id: str) -> None:
        """It was removed."""

    def images(self, ids: Mapping[str, str]) -> None:
        """Wanted tags, or what they mean, have changed; all of them, as in `synced`."""

    def lost(self, why: str) -> None:
        """What was told cannot be relied on any more, until `synced`. Told again when the reason changes."""
