"""The watch on the Docker Engine: told what every compose container does, as long as there is an engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.contract import UNKNOWN_IMAGE, EngineListener
from hostmanager_server.drivers.compose.engine.engine_errors import explain
from hostmanager_server.drivers.compose.engine.messages import (
    CloseRequested,
    Messages,
    RefreshRequested,
    WantedChanged,
)
from hostmanager_server.drivers.compose.engine.session import SilentEngineError, WatchSession
from hostmanager_server.linux.thread_names import name_this_thread

__all__ = ["UNKNOWN_IMAGE", "EngineListener", "EngineWatch"]

log = logging.getLogger(__name__)

# An engine that restarts with its containers left alone (live-restore) is back within a second: nobody
# needs to hear of it.
_PATIENCE = 1.0  # s without an engine before that is told
_FIRST_DELAY = 0.1  # s between attempts to connect, doubled after each
_MAX_DELAY = 2.0


class EngineWatch:
    """Lists the containers, then follows the engine's events; and again, whenever the engine was away.

    What dies while the engine is away sends no event, so a complete list follows every connection.
    Asks nothing of an idle engine but a ping after `silence` s without an event; if that is not answered in
    `answer_within` s, the engine is lost.
    """

    def __init__(
        self,
        dial: Callable[[], Connection],
        listener: EngineListener,
        call_soon: Callable[[Callable[[], None]], None],
        *,
        silence: float = 10.0,
        answer_within: float = 5.0,
    ) -> None:
        """`call_soon` runs a callback on the supervisor thread, in the order of the calls. `dial` is asked
        for each new connection: the environment may name another engine by then."""
        self._dial = dial
        self._listener = listener
        self._call_soon = call_soon
        self._silence = silence
        self._answer_within = answer_within
        self._inbox: Messages = SimpleQueue()
        self._wanted: frozenset[str] = frozenset()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None  # under the lock, as `close` cuts it off
        self._lost = ""
        self._thread = threading.Thread(target=self._run, name="hm-engine", daemon=True)

    def start(self) -> None:
        """Begin. The first thing told is `synced` or `lost`."""
        self._thread.start()

    def close(self) -> None:
        """End the watch, whatever it waits for. Nothing is told any more once this was called."""
        self._closed.set()
        self._inbox.put(CloseRequested())
        with self._lock:
            if self._connection is not None:
                self._connection.abort()
        if self._thread.ident is not None:
            self._thread.join()

    def want_images(self, tags: frozenset[str]) -> None:
        """These tags are wanted from now on, and no others. Thread-safe."""
        self._wanted = tags
        self._inbox.put(WantedChanged())

    def refresh(self, project: str, then: Callable[[], None] | None = None) -> None:
        """Look at the containers of a project again, as events alone might be late. Thread-safe.

        `then` is called on the supervisor thread when everything that had happened by the time of this call
        is told. When the engine is away that is after it has come back, and after `synced`.
        """
        self._inbox.put(RefreshRequested(project, then))

    # --- on the watch's own thread

    def _run(self) -> None:
        name_this_thread("hm-engine")
        delay = _FIRST_DELAY
        patient_until = 0.0
        while not self._closed.is_set():
            in_touch = False
            try:
                session = self._session()
                try:
                    session.open()
                    in_touch = True
                    self._lost, delay = "", _FIRST_DELAY
                    session.follow()
                finally:
                    session.close()
            except Exception as error:
                # Not only those of the network: an engine may answer anything. If this thread ended, what was
                # told last would stand for ever, whatever becomes of the containers.
                if self._closed.is_set():
                    return
                log.debug("the connection to the Docker Engine failed", exc_info=True)
                if in_touch and not isinstance(error, SilentEngineError):
                    patient_until = time.monotonic() + _PATIENCE
                elif time.monotonic() >= patient_until or isinstance(error, SilentEngineError):
                    self._tell_lost(explain(error))
                self._closed.wait(delay)
                delay = min(2 * delay, _MAX_DELAY)

    def _session(self) -> WatchSession:
        connection = self._dial()
        with self._lock:
            self._connection = connection
            if self._closed.is_set():
                connection.abort()
        return WatchSession(
            connection,
            self._inbox,
            self._listener,
            self._tell,
            lambda: self._wanted,
            silence=self._silence,
            answer_within=self._answer_within,
        )

    def _tell_lost(self, why: str) -> None:
        if why != self._lost:
            self._lost = why
            log.warning("%s", why)
            self._tell(lambda: self._listener.lost(why))

    def _tell(self, callback: Callable[[], None]) -> None:
        def tell() -> None:
            if not self._closed.is_set():
                callback()

        self._call_soon(tell)
