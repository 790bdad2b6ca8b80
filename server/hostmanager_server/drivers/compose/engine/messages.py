"""Messages to the thread of the engine watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from hostmanager.values import dataclass

from hostmanager_server.drivers.compose.engine.connection import EngineEventStream


@dataclass(frozen=True, slots=True)
class EventReceived:
    """An event that the engine sent on a stream."""

    stream: EngineEventStream
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The end of a stream of events, with its cause."""

    stream: EngineEventStream
    error: Exception


@dataclass(frozen=True, slots=True)
class RefreshRequested:
    """A request for fresh facts about one project; see EngineWatch.refresh."""

    project: str
    then: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class WantedChanged:
    """A change of the watched projects or image tags."""


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """A request to end the watch."""


Messages = SimpleQueue[EventReceived | StreamEnded | RefreshRequested | WantedChanged | CloseRequested]
