"""Streams of engine events: one per managed project, and one of images.

The engine filters the events, so containers of other projects cost nothing: their events never arrive. The
engine matches all values of a label filter at once, so one stream cannot follow two projects.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping

from hostmanager.values import dataclass

from hostmanager_server.drivers.compose.engine.connection import Connection, EngineEventStream
from hostmanager_server.drivers.compose.engine.container import PROJECT_LABEL
from hostmanager_server.drivers.compose.engine.engine_errors import EngineError
from hostmanager_server.drivers.compose.engine.messages import EventReceived, Messages, StreamEnded
from hostmanager_server.linux.thread_names import name_this_thread

log = logging.getLogger(__name__)

MAX_PROJECT_STREAMS = 16
"""The number of streams, each with a thread; with more projects, one stream follows all containers."""

_IMAGES = "images"
_CONTAINERS = "containers"  # of all projects, and of none

# The events left out change no known fact of a container (exec_*, top, resize, update) or come together
# with a listed event (kill, stop, restart). Podman filters by its own names, `died` and `remove`.
_CONTAINER_EVENTS = [
    *("create", "start", "die", "died", "destroy", "remove"),
    *("rename", "health_status", "pause", "unpause", "oom"),
]
_IMAGE_EVENTS = ["tag", "untag", "pull", "load", "loadfromarchive", "import", "delete", "remove"]


@dataclass(frozen=True, slots=True)
class _OpenStream:
    stream: EngineEventStream
    reader: threading.Thread


class EventStreams:
    """The event streams of one connection; belongs to the watch thread, apart from the readers.

    Every method but `close` may raise as the connection does.
    """

    def __init__(self, connection: Connection, messages: Messages, answer_within: float) -> None:
        self._connection = connection
        self._messages = messages
        self._answer_within = answer_within
        self._open: dict[str, _OpenStream] = {}
        self._closed: list[_OpenStream] = []

    def follow(self, projects: frozenset[str]) -> None:
        """Follow the containers of exactly these projects, and the images.

        New streams are open before this method returns. The readers put each event into the messages.
        """
        wanted = _filters(projects)
        for key in wanted.keys() - self._open.keys():
            self._open[key] = self._open_stream(wanted[key])
        # Only now: a container whose stream changes has its events in both rather than in neither.
        for key in self._open.keys() - wanted.keys():
            self._closed.append(self._open.pop(key))
            self._closed[-1].stream.close()

    def opened(self, stream: EngineEventStream) -> bool:
        """Return whether the stream belongs to this connection.

        A closed stream belongs to the connection until its end arrives: the last events come before.
        """
        return any(each.stream is stream for each in [*self._open.values(), *self._closed])

    def note_end(self, stream: EngineEventStream) -> bool:
        """Forget a stream whose end arrived; return whether the engine ended the stream."""
        self._closed = [each for each in self._closed if each.stream is not stream]
        return any(each.stream is stream for each in self._open.values())

    def join(self) -> None:
        """Wait for the readers, after the connection was aborted."""
        for each in [*self._open.values(), *self._closed]:
            each.reader.join()

    def _open_stream(self, filters: Mapping[str, list[str]]) -> _OpenStream:
        stream = self._connection.stream_events(filters, self._answer_within)
        reader = threading.Thread(target=self._read, args=(stream,), name="hm-events", daemon=True)
        reader.start()
        return _OpenStream(stream, reader)

    def _read(self, stream: EngineEventStream) -> None:
        # A separate thread, because one read cannot wait for the engine and for requests at once.
        name_this_thread("hm-events")
        error: Exception = EngineError("the Docker Engine ended its stream of events, because it stops")
        try:
            for event in stream:
                self._messages.put(EventReceived(stream, event))
        except Exception as problem:  # the watch thread must learn of every error, also of a bug
            error = problem
        self._messages.put(StreamEnded(stream, error))


def _filters(projects: Iterable[str]) -> dict[str, Mapping[str, list[str]]]:
    """Return the filters of each stream, by a key that identifies the stream."""
    containers: Mapping[str, list[str]] = {"type": ["container"], "event": _CONTAINER_EVENTS}
    found: dict[str, Mapping[str, list[str]]] = {
        f"project {name}": {**containers, "label": [f"{PROJECT_LABEL}={name}"]} for name in sorted(projects)
    }
    if len(found) > MAX_PROJECT_STREAMS:
        found = {_CONTAINERS: containers}  # a label without a value matches nothing in Podman 4.3
    # Without the label, which the engine would compare with the labels of the image.
    found[_IMAGES] = {"type": ["image"], "event": _IMAGE_EVENTS}
    return found
