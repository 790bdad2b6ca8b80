"""The engine watch during one connection: a complete list, then events.

The session folds the engine's events into a ContainerCache, inspects the containers that the events concern,
and notifies the listener of every change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import Empty
from typing import Any

import requests

from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.container import (
    PROJECT_LABEL,
    Container,
    from_list,
    is_service_container,
)
from hostmanager_server.drivers.compose.engine.container_cache import ContainerCache
from hostmanager_server.drivers.compose.engine.contract import EngineListener
from hostmanager_server.drivers.compose.engine.engine_errors import EngineError
from hostmanager_server.drivers.compose.engine.event_streams import EventStreams
from hostmanager_server.drivers.compose.engine.image_events import concerns
from hostmanager_server.drivers.compose.engine.messages import (
    CloseRequested,
    EventReceived,
    Messages,
    RefreshRequested,
    StreamEnded,
    WantedChanged,
)
from hostmanager_server.drivers.compose.engine.queries import ContainerBusyError, EngineQueries

log = logging.getLogger(__name__)

_EVENT_DELAY = 5.0  # s; an event that an inspection is ahead of arrives within this time, or never
_RETRY_DELAY = 0.1  # s between inspections while such an event is missing

# The engine answers no inspection of a container while it starts, stops or removes the container: two seconds
# when 20 containers restarted at once. Other containers must not wait for that, so the session gives an
# inspection up after a moment and repeats it.
_QUICK_INSPECTION = 0.2  # s for an inspection that the session can repeat at any time
_INSPECTION = 1.0  # s for an inspection without which a notification lacks facts
# s of failed inspections; then the engine is stuck with this container, while all others work
_STUCK_AFTER = 30.0


class UnresponsiveEngineError(EngineError):
    """An engine that accepts connections but does not answer."""


class WatchSession:
    """One session of the engine watch; belongs to one thread.

    Every method may raise requests.RequestException, DockerException or OSError. After an error, the only
    useful call is `close`.
    """

    def __init__(
        self,
        connection: Connection,
        messages: Messages,
        listener: EngineListener,
        call_soon: Callable[[Callable[[], None]], None],
        wanted_projects: Callable[[], frozenset[str]],
        wanted_tags: Callable[[], frozenset[str]],
        *,
        ping_after: float,
        answer_within: float,
    ) -> None:
        self._connection = connection
        self._queries = EngineQueries(connection)
        self._messages = messages
        self._listener = listener
        self._call_soon = call_soon
        self._wanted_projects = wanted_projects
        self._wanted_tags = wanted_tags
        self._ping_after = ping_after
        self._answer_within = answer_within
        self._cache = ContainerCache()
        self._streams = EventStreams(connection, messages, answer_within)
        self._projects: frozenset[str] = frozenset()
        self._to_inspect: dict[str, float] = {}  # container id → since when an inspection is due
        self._busy: dict[str, float] = {}  # container id → since when inspections have failed
        self._open_refreshes: list[RefreshRequested] = []  # answered when no inspection is due
        self._images_outdated = False
        self._images: dict[str, str] = {}

    def open(self) -> None:
        """Connect to the engine, list the containers and images, and notify the listener."""
        self._connection.negotiate(self._answer_within)
        self._follow_projects()

    def follow(self) -> None:
        """Process messages and notify the listener, until a CloseRequested arrives."""
        last_answer = time.monotonic()
        while True:
            quiet = last_answer + self._ping_after - time.monotonic()
            timeout = min(quiet, _RETRY_DELAY) if self._to_inspect else quiet
            try:
                message = self._messages.get(timeout=max(0.0, timeout))
            except Empty:
                message = None
            match message:
                case EventReceived() if self._streams.opened(message.stream):
                    last_answer = time.monotonic()
                    self._fold(message.event)
                case StreamEnded() if self._streams.note_end(message.stream):
                    raise message.error
                case RefreshRequested():
                    self._refresh(message)
                case WantedChanged() if self._wanted_projects() != self._projects:
                    self._follow_projects()
                case WantedChanged():
                    self._images_outdated = True
                case CloseRequested():
                    return
                case EventReceived() | StreamEnded() | None:
                    pass  # from a closed stream or an earlier connection, or no message in time
            self._inspect_scheduled()
            if time.monotonic() - last_answer >= self._ping_after:
                self._ping()
                last_answer = time.monotonic()

    def close(self) -> None:
        """Close the connection, and put unanswered refreshes back for the next session."""
        self._connection.abort()
        self._streams.join()
        self._connection.close()
        for refresh in self._open_refreshes:
            self._messages.put(refresh)

    # --- events from the engine

    def _follow_projects(self) -> None:
        """Follow the wanted projects from now on, and notify the listener of all containers and images."""
        wanted = self._wanted_projects()
        # The streams open first, so that no event during the listing is missed.
        self._streams.follow(wanted)
        self._cache.keep_projects(wanted)
        for project in sorted(wanted - self._projects):
            found = map(self._inspect_listed, self._queries.list_containers(project))
            self._cache.add(container for container in found if container is not None)
        self._projects = wanted
        self._images_outdated = False
        self._images = self._queries.image_ids(self._wanted_tags())
        self._call_soon(partial(self._listener.synced, wanted, self._cache.all(), dict(self._images)))

    def _ping(self) -> None:
        try:
            self._connection.check_alive(self._answer_within)
        except requests.Timeout as error:
            silence = self._ping_after + self._answer_within
            raise UnresponsiveEngineError(
                f"cannot use the Docker Engine: the engine has not answered for {silence:g} s; see its log"
                " (journalctl -u docker), or restart it (systemctl restart docker)"
            ) from error

    def _fold(self, event: Mapping[str, Any]) -> None:
        if event.get("Type") == "image":
            if concerns(event, self._wanted_tags(), self._images.values()):
                self._images_outdated = True
            return
        actor = event.get("Actor") or {}
        container_id = actor.get("ID") or ""
        attributes = actor.get("Attributes") or {}
        if self._cache.get(container_id) is None and not self._is_watched(attributes):
            return
        at = event.get("timeNano", 0) / 1e9
        match event.get("Action"):
            case "die":
                # Notify at once: an inspection first would take time, and might miss a quick restart.
                exit_code = int(attributes.get("exitCode") or 0)
                self._notify_changed(self._cache.fold_end(container_id, exit_code, at))
                self._schedule_inspection(container_id)
            case "oom":  # before the die event
                self._cache.fold_oom(container_id, at)
            case "start":
                self._fold_start(container_id, at)
            case "destroy" | "remove":  # "remove" is Podman's word
                self._to_inspect.pop(container_id, None)
                self._busy.pop(container_id, None)
                self._remove(container_id)
            case _:
                self._schedule_inspection(container_id)

    def _is_watched(self, labels: Mapping[str, str]) -> bool:
        return labels.get(PROJECT_LABEL) in self._projects and is_service_container(labels)

    def _fold_start(self, container_id: str, at: float) -> None:
        try:
            inspected = self._queries.inspect(container_id, _INSPECTION)
        except ContainerBusyError:
            self._notify_changed(self._cache.fold_start_without_inspection(container_id, at))
            self._schedule_inspection(container_id)
            return
        if inspected is not None:
            if inspected.image not in self._images.values():
                self._inspect_images()  # BuildKit makes images, and moves their tags, without an event
            self._notify_changed(self._cache.fold_start(inspected, at))
        if self._cache.get(container_id) != inspected:
            self._schedule_inspection(container_id)

    # --- inspections

    def _inspect_listed(self, entry: Mapping[str, Any]) -> Container | None:
        try:
            return self._queries.inspect(entry["Id"], _INSPECTION)
        except ContainerBusyError:
            self._connection.check_alive(self._answer_within)  # raises if the engine itself does not answer
            self._schedule_inspection(entry["Id"])
            return from_list(entry)

    def _refresh(self, refresh: RefreshRequested) -> None:
        self._open_refreshes.append(refresh)
        if refresh.project in self._projects:
            listed = {entry["Id"] for entry in self._queries.list_containers(refresh.project)}
            for container_id in listed | self._cache.ids_of_project(refresh.project):
                self._schedule_inspection(container_id)

    def _schedule_inspection(self, container_id: str) -> None:
        self._to_inspect.setdefault(container_id, time.monotonic())

    def _inspect_scheduled(self) -> None:
        """Make the due inspections once all received events are folded.

        A missing event delays an inspection by at most _EVENT_DELAY.
        """
        for container_id, since in list(self._to_inspect.items()):
            overdue = time.monotonic() - since >= _EVENT_DELAY
            quiet = self._messages.empty()
            # Queued messages have arrived, however late this thread processes them.
            if (overdue or quiet) and self._inspect_now(container_id, overdue=overdue and quiet):
                del self._to_inspect[container_id]
        if not self._to_inspect:
            for refresh in self._open_refreshes:
                if refresh.then is not None:
                    self._call_soon(refresh.then)
            self._open_refreshes.clear()
        if self._images_outdated and self._messages.empty():
            self._inspect_images()

    def _inspect_now(self, container_id: str, *, overdue: bool) -> bool:
        """Inspect a container; return False if the inspection must be repeated."""
        try:
            inspected = self._queries.inspect(container_id, _QUICK_INSPECTION)
        except ContainerBusyError:
            return self._give_up_on_stuck(container_id)
        self._busy.pop(container_id, None)
        if inspected is None or inspected.project not in self._projects:
            known = self._cache.get(container_id)
            if known is not None and known.running and not overdue:
                return False  # the die event, with the exit code, is still to come
            self._remove(container_id)
            return True
        if self._cache.is_ahead(inspected) and not overdue:
            return False
        self._notify_changed(self._cache.fold_inspection(inspected))
        return True

    def _give_up_on_stuck(self, container_id: str) -> bool:
        """Return whether inspections of a container have failed for too long to go on."""
        now = time.monotonic()
        self._to_inspect[container_id] = now  # received events come first again
        if now - self._busy.setdefault(container_id, now) < _STUCK_AFTER:
            return False
        del self._busy[container_id]
        log.warning(
            "cannot inspect container %s: the Docker Engine gives no answer; restart the engine",
            container_id[:12],
        )
        return True

    def _inspect_images(self) -> None:
        self._images_outdated = False
        images = self._queries.image_ids(self._wanted_tags())
        if images != self._images:
            self._images = images
            self._call_soon(partial(self._listener.images_changed, dict(images)))

    # --- notifications

    def _remove(self, container_id: str) -> None:
        if self._cache.remove(container_id):
            self._call_soon(partial(self._listener.container_removed, container_id))

    def _notify_changed(self, containers: Iterable[Container]) -> None:
        for container in containers:
            self._call_soon(partial(self._listener.container_changed, container))
