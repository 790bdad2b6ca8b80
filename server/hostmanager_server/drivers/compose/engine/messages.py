"""What the thread that watches the engine is woken by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from hostmanager_server.drivers.compose.engine.connection import EventStream


@dataclass(frozen=True, slots=True)
class Heard:
    """The engine told of something."""

    stream: EventStream
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The engine tells no more on this stream."""

    stream: EventStream
    error: Exception


@dataclass(frozen=True, slots=True)
class Refresh:
    """See EngineWatch.refresh."""

    project: str
    then: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class WantedChanged:
    """Other image tags are wanted."""


@dataclass(frozen=True, slots=True)
class Close:
    """Nobody listens any more."""


Inbox = SimpleQueue[Heard | Ended | Refresh | WantedChanged | Close]
