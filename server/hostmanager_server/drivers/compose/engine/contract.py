"""What the compose driver needs of the watch on the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hostmanager_server.drivers.compose.listener import EngineListener

__all__ = ["EngineListener", "EngineWatcher"]


class EngineWatcher(Protocol):
    """See EngineWatch."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def want_images(self, tags: frozenset[str]) -> None: ...
    def refresh(self, project: str, then: Callable[[], None] | None = None) -> None: ...
