"""The Docker Engine watch: notifications about containers and the engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.contract import EngineListener
from hostmanager_server.drivers.compose.engine.engine_errors import explain
from hostmanager_server.drivers.compose.engine.messages import (
    CloseRequested,
    Messages,
    RefreshRequested,
    WantedChanged,
)
from hostmanager_server.drivers.compose.engine.session import UnresponsiveEngineError, WatchSession
from hostmanager_server.linux.thread_names import name_this_thread

__all__ = ["EngineListener", "EngineWatch"]

log = logging.getLogger(__name__)

# An engine that restarts with live-restore, so without touching its containers, is back within a second;
# such a restart needs no notification.
_LOSS_DELAY = 1.0  # s without an engine before the notification
_FIRST_DELAY = 0.1  # s between attempts to connect, doubled after each
_MAX_DELAY = 2.0


class EngineWatch:
    """A thread that lists the containers, then follows the engine's events.

    Every reconnection begins with a new list.

    The engine sends no events about containers that die while the engine is away, so a complete list follows
    every connection. The watch sends an idle engine nothing but a ping after `ping_after` s without an event;
    the engine counts as lost without an answer in `answer_within` s.
    """

    def __init__(
        self,
        new_connection: Callable[[], Connection],
        listener: EngineListener,
        call_soon: Callable[[Callable[[], None]], None],
        *,
        ping_after: float = 10.0,
        answer_within: float = 5.0,
    ) -> None:
        """Prepare the watch.

        `call_soon` runs a callback on the supervisor thread, in the order of the calls. Every connection
        comes from a call of `new_connection`, because the environment may name another engine by then.
        """
        self._new_connection = new_connection
        self._listener = listener
        self._call_soon = call_soon
        self._ping_after = ping_after
        self._answer_within = answer_within
        self._messages: Messages = SimpleQueue()
        self._wanted_projects: frozenset[str] = frozenset()
        self._wanted_tags: frozenset[str] = frozenset()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None  # under the lock, because `close` aborts it
        self._loss_reason = ""
        self._thread = threading.Thread(target=self._run, name="hm-engine", daemon=True)

    def start(self) -> None:
        """Start the thread. The first notification is `synced` or `engine_lost`."""
        self._thread.start()

    def close(self) -> None:
        """End the watch at once, also during a call; no notification follows."""
        self._closed.set()
        self._messages.put(CloseRequested())
        with self._lock:
            if self._connection is not None:
                self._connection.abort()
        if self._thread.ident is not None:
            self._thread.join()

    def watch_projects(self, projects: frozenset[str]) -> None:
        """Watch the containers of these compose projects from now on, and no others. Thread-safe."""
        self._wanted_projects = projects
        self._messages.put(WantedChanged())

    def watch_images(self, tags: frozenset[str]) -> None:
        """Watch these image tags from now on, and no other tags. Thread-safe."""
        self._wanted_tags = tags
        self._messages.put(WantedChanged())

    def refresh(self, project: str, then: Callable[[], None] | None = None) -> None:
        """Inspect the containers of a project, because events may be late.

        Thread-safe.

        The watch calls `then` on the supervisor thread when the listener knows everything that happened
        before this call; if the engine is away, after the engine is back and after `synced`.
        """
        self._messages.put(RefreshRequested(project, then))

    # --- on the watch thread

    def _run(self) -> None:
        name_this_thread("hm-engine")
        delay = _FIRST_DELAY
        report_loss_after = 0.0
        while not self._closed.is_set():
            connected = False
            try:
                session = self._new_session()
                try:
                    session.open()
                    connected = True
                    self._loss_reason, delay = "", _FIRST_DELAY
                    session.follow()
                finally:
                    session.close()
            except Exception as error:
                # Not only network errors: an engine may answer anything. If this thread ended, the last
                # facts would stay forever, regardless of the containers.

                if self._closed.is_set():
                    return
                log.debug("the connection to the Docker Engine failed", exc_info=True)
                if connected and not isinstance(error, UnresponsiveEngineError):
                    report_loss_after = time.monotonic() + _LOSS_DELAY
                elif time.monotonic() >= report_loss_after or isinstance(error, UnresponsiveEngineError):
                    self._notify_lost(explain(error))
                self._closed.wait(delay)
                delay = min(2 * delay, _MAX_DELAY)

    def _new_session(self) -> WatchSession:
        connection = self._new_connection()
        with self._lock:
            self._connection = connection
            if self._closed.is_set():
                connection.abort()
        return WatchSession(
            connection,
            self._messages,
            self._listener,
            self._notify,
            lambda: self._wanted_projects,
            lambda: self._wanted_tags,
            ping_after=self._ping_after,
            answer_within=self._answer_within,
        )

    def _notify_lost(self, why: str) -> None:
        if why != self._loss_reason:
            self._loss_reason = why
            log.warning("%s", why)
            self._notify(lambda: self._listener.engine_lost(why))

    def _notify(self, callback: Callable[[], None]) -> None:
        def notify() -> None:
            if not self._closed.is_set():
                callback()

        self._call_soon(notify)
