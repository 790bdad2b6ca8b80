"""What the thread that watches the engine is woken by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from hostmanager_server.drivers.compose.engine.connection import EngineEventStream


@dataclass(frozen=True, slots=True)
class EventReceived:
    """The engine told of something."""

    stream: EngineEventStream
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The engine tells no more on this stream."""

    stream: EngineEventStream
    error: Exception


@dataclass(frozen=True, slots=True)
class RefreshRequested:
    """See EngineWatch.refresh."""

    project: str
    then: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class WantedChanged:
    """Other image tags are wanted."""


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """Nobody listens any more."""


Messages = SimpleQueue[EventReceived | StreamEnded | RefreshRequested | WantedChanged | CloseRequested]
