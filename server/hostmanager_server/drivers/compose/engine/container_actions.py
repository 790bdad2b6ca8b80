"""Starts, removals and fetches of images through the Docker Engine, one thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from hostmanager_server.drivers.compose.cli.process import PROGRESS_TIMEOUT
from hostmanager_server.drivers.compose.cli.slots import Slots
from hostmanager_server.drivers.compose.engine.connection import (
    CALL_TIMEOUT,
    Connection,
    EngineError,
    explain,
)
from hostmanager_server.drivers.compose.engine.credentials import CredentialsError, credentials_for
from hostmanager_server.drivers.contract import CallSoon
from hostmanager_server.linux.thread_names import name_this_thread

START_TIMEOUT = 300.0  # s for the engine to start a container, on a slow disk or a slow network mount
_IN_PROGRESS = "is already in progress"  # in the engine's error: another client removes the container
_FAILURES = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
_ABORTED = "the action was stopped"

# Receives why the action failed, or the empty string, and whether the engine itself refused.
Done = Callable[[str, bool], None]


class EngineAction:
    """One action on a thread of its own."""

    def __init__(self, slots: Slots, *, repeated: bool) -> None:
        self._slots = slots
        self._repeated = repeated
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._aborted = False

    def abort(self) -> None:
        """Stop waiting for the engine. A start or removal may go on there; a pull ends. Thread-safe."""
        with self._lock:
            self._aborted = True
            if self._connection is not None:
                self._connection.abort()
        self._slots.wake()

    def run(self, connect: Callable[[], Connection], act: Callable[[Connection], None]) -> tuple[str, bool]:
        """Act on a new connection; return why that failed, and whether the engine refused."""
        with self._slots.slot(lambda: self._aborted, repeated=self._repeated) as given:
            if not given:
                return _ABORTED, False
            try:
                connection = connect()
                try:
                    with self._lock:
                        if self._aborted:
                            return _ABORTED, False
                        self._connection = connection
                    act(connection)
                finally:
                    with self._lock:
                        self._connection = None
                    connection.close()
            except CredentialsError as error:
                return str(error), False
            except _FAILURES as error:
                return explain(error), isinstance(error, APIError | EngineError)
        return "", False


class EngineActions:
    """Actions on containers and images; every action ends with a call on the supervisor thread."""

    def __init__(self, connect: Callable[[], Connection], call_soon: CallSoon) -> None:
        self._connect = connect
        self._call_soon = call_soon
        self._slots = Slots(8, 128)
        self._fetch_slots = Slots(3, 64)
        self._running: set[EngineAction] = set()

    def start(self, container_id: str, done: Done, *, repeated: bool) -> None:
        """Start a container that exists; a `repeated` start lets others go before."""

        def act(connection: Connection) -> None:
            connection.start_container(container_id, START_TIMEOUT)

        self._begin(self._slots, act, done, repeated=repeated)

    def remove(self, container_id: str, done: Done) -> None:
        """Remove a container that does not run; a container that is gone already is a success."""
        self._begin(self._slots, lambda connection: _remove(connection, container_id), done)

    def fetch(self, image: str, platform: str, done: Done) -> EngineAction:
        """Pull an image, unless the engine has the image."""
        return self._begin(self._fetch_slots, lambda connection: _fetch(connection, image, platform), done)

    def signal(self, container_ids: Sequence[str], signum: int, done: Callable[[str], None]) -> None:
        """Send a signal to the main processes of containers; the engine restarts none that ends by it."""
        if not container_ids:
            done("no container runs")
            return

        def act(connection: Connection) -> None:
            for container_id in container_ids:
                connection.kill(container_id, signum)

        self._begin(self._slots, act, lambda error, refused: done(error))

    def close(self) -> None:
        """Abort all waits for the engine."""
        for action in list(self._running):
            action.abort()

    def _begin(
        self, slots: Slots, act: Callable[[Connection], None], done: Done, *, repeated: bool = False
    ) -> EngineAction:
        action = EngineAction(slots, repeated=repeated)
        self._running.add(action)

        def finish(error: str, *, refused: bool) -> None:
            self._running.discard(action)
            done(error, refused)

        def run() -> None:
            name_this_thread("hm-container")
            error, refused = action.run(self._connect, act)
            self._call_soon(lambda: finish(error, refused=refused))

        # No pool: the standard library's pool would block the daemon's exit while the engine is stuck.
        threading.Thread(target=run, name="hm-container", daemon=True).start()
        return action


def _remove(connection: Connection, container_id: str) -> None:
    try:
        connection.remove_container(container_id)
    except NotFound:
        return
    except APIError as error:
        if _IN_PROGRESS not in str(error):
            raise
        connection.wait(container_id, timeout=CALL_TIMEOUT, condition="removed")


def _fetch(connection: Connection, image: str, platform: str) -> None:
    try:
        connection.inspect_image(image)  # type: ignore[no-untyped-call]  # its stub has no types
    except ImageNotFound:
        credentials = credentials_for(image)
        connection.pull_image(image, platform=platform, credentials=credentials, within=PROGRESS_TIMEOUT)
