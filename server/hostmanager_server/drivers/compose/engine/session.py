"""One connection's worth of watching the engine: a complete list, then its events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import Empty
from typing import Any

import requests
from docker.errors import APIError

from hostmanager_server.drivers.compose.engine.connection import Connection, EngineEventStream
from hostmanager_server.drivers.compose.engine.container import (
    PROJECT_LABEL,
    Container,
    from_inspect,
    from_list,
    is_of_compose,
)
from hostmanager_server.drivers.compose.engine.container_cache import ContainerCache
from hostmanager_server.drivers.compose.engine.contract import UNKNOWN_IMAGE, EngineListener
from hostmanager_server.drivers.compose.engine.engine_errors import EngineError, explain
from hostmanager_server.drivers.compose.engine.messages import (
    CloseRequested,
    EventReceived,
    Messages,
    RefreshRequested,
    StreamEnded,
    WantedChanged,
)
from hostmanager_server.linux.thread_names import name_this_thread

log = logging.getLogger(__name__)

# One filter for both kinds: a label in it would be matched against the labels of images as well, and drop
# nearly all of their events; so the label is looked at here. What is left out changes nothing that is known
# of a container (exec_*, top, resize, oom, update) or comes with one of these (kill, stop, restart). Without
# this, the health checks of 50 services would wake us some times a second.
_FILTERS = {
    "type": ["container", "image"],
    "event": [
        *("create", "start", "die", "destroy", "rename", "health_status", "pause", "unpause"),
        *("tag", "untag", "pull", "load", "import", "delete"),
    ],
}

_EVENTS_UNDER_WAY = 5.0  # s; events that an inspection is ahead of arrive within, or not at all
_LOOK_AGAIN = 0.1  # s between inspections while they do not

# The engine answers nothing of a container while it starts, stops or removes it, which took two seconds when
# 20 were restarted at once. What the others do meanwhile must not wait for that, so an inspection is given up
# after a moment and made again.
_GLANCE = 0.2  # s for one that can be made again at any time
_LOOK = 1.0  # s for one without which there is less to tell
_STUCK = (
    30.0  # s of failed inspections; then the engine is stuck with the container, as happens, and well else
)


class SilentEngineError(EngineError):
    """The engine is there, but does not answer."""


class _BusyError(Exception):
    """The engine says nothing of this one container for the moment."""


class WatchSession:
    """Belongs to one thread. Every method may raise requests.RequestException, DockerException or OSError;
    the session is then of no more use than to be closed."""

    def __init__(
        self,
        connection: Connection,
        inbox: Messages,
        listener: EngineListener,
        call_soon: Callable[[Callable[[], None]], None],
        wanted: Callable[[], frozenset[str]],
        *,
        silence: float,
        answer_within: float,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._listener = listener
        self._call_soon = call_soon
        self._wanted = wanted
        self._silence = silence
        self._answer_within = answer_within
        self._sightings = ContainerCache()
        self._stream: EngineEventStream | None = None
        self._reader: threading.Thread | None = None
        self._doubtful: dict[str, float] = {}  # container id → since when it is to be inspected
        self._busy: dict[str, float] = {}  # container id → since when inspections have failed
        self._waiting: list[RefreshRequested] = []  # until nothing is doubtful any more
        self._images_doubtful = False
        self._images: dict[str, str] = {}

    def open(self) -> None:
        """Get in touch, list everything and tell it."""
        self._connection.negotiate(self._answer_within)
        # The stream comes first: what happens while the list is made must not be missed.
        self._stream = self._connection.follow(_FILTERS, self._answer_within)
        self._reader = threading.Thread(
            target=self._read, args=(self._stream,), name="hm-events", daemon=True
        )
        self._reader.start()
        found = [self._facts(entry) for entry in self._list(PROJECT_LABEL)]
        containers = tuple(container for container in found if container is not None)
        self._sightings.reset(containers)
        self._images = self._resolve()
        self._call_soon(partial(self._listener.synced, containers, dict(self._images)))

    def follow(self) -> None:
        """Tell what happens, until Close comes out of the inbox."""
        heard = time.monotonic()
        while True:
            quiet = heard + self._silence - time.monotonic()
            try:
                item = self._inbox.get(timeout=max(0.0, min(quiet, _LOOK_AGAIN) if self._doubtful else quiet))
            except Empty:
                item = None
            match item:
                case EventReceived() if item.stream is self._stream:
                    heard = time.monotonic()
                    self._fold(item.event)
                case StreamEnded() if item.stream is self._stream:
                    raise item.error
                case RefreshRequested():
                    self._refresh(item)
                case WantedChanged():
                    self._images_doubtful = True
                case CloseRequested():
                    return
                case EventReceived() | StreamEnded() | None:
                    pass  # left over from the connection before, or nothing came
            self._settle()
            if time.monotonic() - heard >= self._silence:
                self._check()
                heard = time.monotonic()

    def close(self) -> None:
        """Let go of the engine. Refreshes that were not answered go back to the inbox, for the next."""
        self._connection.abort()
        if self._reader is not None:
            self._reader.join()
        self._connection.close()
        for refresh in self._waiting:
            self._inbox.put(refresh)

    # --- what the engine says

    def _read(self, stream: EngineEventStream) -> None:
        # A thread of its own: a read cannot wait for the engine and for requests at once.
        name_this_thread("hm-events")
        error: Exception = EngineError("the Docker Engine ended its stream of events: it is stopping")
        try:
            for event in stream:
                self._inbox.put(EventReceived(stream, event))
        except Exception as problem:  # whatever it is, the thread that asked for events must know
            error = problem
        self._inbox.put(StreamEnded(stream, error))

    def _check(self) -> None:
        try:
            self._connection.check(self._answer_within)
        except requests.Timeout as error:
            raise SilentEngineError(
                f"the Docker Engine has not answered for {self._silence + self._answer_within:g} s; see its"
                " log (journalctl -u docker), or restart it (systemctl restart docker)"
            ) from error

    def _list(self, label: str) -> list[dict[str, Any]]:
        entries = self._connection.containers(all=True, filters={"label": [label]})
        return [entry for entry in entries if is_of_compose(entry.get("Labels") or {})]

    def _inspect(self, container_id: str, within: float) -> Container | None:
        """None: there is no such container of a service. Raises _BusyError."""
        try:
            return from_inspect(self._connection.inspect(container_id, within))
        except requests.ReadTimeout as error:
            raise _BusyError from error
        except APIError as error:
            if error.status_code == requests.codes.not_found:
                return None
            log.debug("cannot inspect container %s: %s", container_id[:12], explain(error))
            raise _BusyError from error

    def _facts(self, entry: Mapping[str, Any]) -> Container | None:
        try:
            return self._inspect(entry["Id"], _LOOK)
        except _BusyError:
            self._connection.check(self._answer_within)  # is it the container, or the engine?
            self._doubt(entry["Id"])
            return from_list(entry)

    def _resolve(self) -> dict[str, str]:
        return {tag: self._image_id(tag) for tag in sorted(self._wanted())}

    def _image_id(self, tag: str) -> str:
        if not tag:
            return UNKNOWN_IMAGE
        try:
            found = self._connection.inspect_image(tag)  # type: ignore[no-untyped-call]  # its stub has no types
            return str(found["Id"])
        except APIError as error:
            if error.is_client_error():  # not there, or no name that an image can have
                return UNKNOWN_IMAGE
            raise

    # --- what becomes of it

    def _fold(self, event: Mapping[str, Any]) -> None:
        if event.get("Type") == "image":
            self._images_doubtful = True
            return
        actor = event.get("Actor") or {}
        container_id = actor.get("ID") or ""
        attributes = actor.get("Attributes") or {}
        if self._sightings.get(container_id) is None and not is_of_compose(attributes):
            return
        at = event.get("timeNano", 0) / 1e9
        match event.get("Action"):
            case "die":
                # Told as it is: an inspection first would cost time, and might miss a quick restart.
                self._tell(self._sightings.ended(container_id, int(attributes.get("exitCode") or 0), at))
                self._doubt(container_id)
            case "start":
                self._fold_start(container_id, at)
            case "destroy":
                self._doubtful.pop(container_id, None)
                self._busy.pop(container_id, None)
                self._remove(container_id)
            case _:
                self._doubt(container_id)

    def _fold_start(self, container_id: str, at: float) -> None:
        try:
            seen = self._inspect(container_id, _LOOK)
        except _BusyError:
            self._tell(self._sightings.started_unseen(container_id, at))
            self._doubt(container_id)
            return
        if seen is not None:
            if seen.image not in self._images.values():
                self._look_at_images()  # BuildKit makes images, and moves their tags, without an event
            self._tell(self._sightings.started(seen, at))
        if self._sightings.get(container_id) != seen:
            self._doubt(container_id)

    def _refresh(self, refresh: RefreshRequested) -> None:
        self._waiting.append(refresh)
        listed = self._list(f"{PROJECT_LABEL}={refresh.project}")
        for container_id in {entry["Id"] for entry in listed} | self._sightings.of_project(refresh.project):
            self._doubt(container_id)

    def _doubt(self, container_id: str) -> None:
        self._doubtful.setdefault(container_id, time.monotonic())

    def _settle(self) -> None:
        """Inspect what is doubtful once the events at hand are folded, or cannot be waited for any longer."""
        for container_id, since in list(self._doubtful.items()):
            overdue = time.monotonic() - since >= _EVENTS_UNDER_WAY
            quiet = self._inbox.empty()
            # What is in the inbox did arrive, however late this thread comes to it.
            if (overdue or quiet) and self._settled(container_id, overdue and quiet):
                del self._doubtful[container_id]
        if not self._doubtful:
            for refresh in self._waiting:
                if refresh.then is not None:
                    self._call_soon(refresh.then)
            self._waiting.clear()
        if self._images_doubtful and self._inbox.empty():
            self._look_at_images()

    def _look_at_images(self) -> None:
        self._images_doubtful = False
        images = self._resolve()
        if images != self._images:
            self._images = images
            self._call_soon(partial(self._listener.images, dict(images)))

    def _settled(self, container_id: str, overdue: bool) -> bool:
        try:
            seen = self._inspect(container_id, _GLANCE)
        except _BusyError:
            return self._given_up(container_id)
        self._busy.pop(container_id, None)
        if seen is None:
            known = self._sightings.get(container_id)
            if known is not None and known.running and not overdue:
                return False  # how it ended is about to be told
            self._remove(container_id)
            return True
        if self._sightings.ahead(seen) and not overdue:
            return False
        self._tell(self._sightings.inspected(seen))
        return True

    def _given_up(self, container_id: str) -> bool:
        now = time.monotonic()
        self._doubtful[container_id] = now  # let the events at hand go first again
        if now - self._busy.setdefault(container_id, now) < _STUCK:
            return False
        del self._busy[container_id]
        log.warning("the Docker Engine says nothing of container %s; restart the engine", container_id[:12])
        return True

    def _remove(self, container_id: str) -> None:
        if self._sightings.gone(container_id):
            self._call_soon(partial(self._listener.gone, container_id))

    def _tell(self, told: Iterable[Container]) -> None:
        for container in told:
            self._call_soon(partial(self._listener.changed, container))
