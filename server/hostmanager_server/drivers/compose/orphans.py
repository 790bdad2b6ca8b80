"""Removal of orphaned containers through the Docker Engine."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound

from hostmanager_server.drivers.compose.engine.connection import CALL_TIMEOUT, Connection, explain
from hostmanager_server.linux.thread_names import name_this_thread

PARALLEL = 8  # simultaneous removals, over all requests
_THREAD = "hm-orphans"
_IN_PROGRESS = "is already in progress"  # in the engine's error: another client removes the container
_NO_ORPHAN = (
    "the container was left alone, because it is no orphan now: its service is back in the compose file, or"
    " the engine is away"
)
_FAILURES = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)

Connect = Callable[[], Connection]


class ContainerRemover:
    """Removals of containers, on a few threads that start with the first removal."""

    def __init__(self, connect: Connect, *, parallel: int = PARALLEL) -> None:
        self._connect = connect
        self._threads = ThreadPoolExecutor(parallel, _THREAD, name_this_thread, (_THREAD,))
        self._removals: set[_Removal] = set()

    async def remove(self, container_id: str, stop_timeout: float, is_orphan: Callable[[], bool]) -> str:
        """Stop a container, kill it after `stop_timeout` s (0: at once), and remove it.

        Returns why the container still exists, or the empty string, also when another client removed the
        container. A thread calls `is_orphan` before each step; a container in use again is not touched. A
        cancelled call stops waiting for the engine: a requested stop goes on, but no removal follows.
        """
        removal = _Removal(self._connect, container_id, stop_timeout, is_orphan)
        self._removals.add(removal)
        try:
            return await asyncio.wrap_future(self._threads.submit(removal.run))
        finally:
            removal.abort()
            self._removals.discard(removal)

    def close(self) -> None:
        """Abort all waits for the engine, and return when the threads have ended.

        Call only after the last `remove`.
        """
        for removal in list(self._removals):
            removal.abort()
        self._threads.shutdown(cancel_futures=True)


class _Removal:
    """The removal of one container. `run` blocks; `abort` may be called on any thread."""

    def __init__(
        self, connect: Connect, container_id: str, stop_timeout: float, is_orphan: Callable[[], bool]
    ) -> None:
        self._connect = connect
        self._container_id = container_id
        self._stop_timeout = stop_timeout
        self._is_orphan = is_orphan
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._aborted = False

    def run(self) -> str:
        """Return why the container still exists; empty when it is gone."""
        try:
            connection = self._connect()
            try:
                with self._lock:
                    self._connection = connection
                    if self._aborted:
                        return "the removal was cancelled"
                return self._remove(connection)
            finally:
                connection.close()
        except NotFound:
            return ""  # another client removed the container first
        except _FAILURES as error:
            return explain(error)

    def abort(self) -> None:
        """Abort the wait for the engine."""
        with self._lock:
            self._aborted = True
            if self._connection is not None:
                self._connection.abort()

    def _remove(self, connection: Connection) -> str:
        if not self._is_orphan():
            return self._keep(connection)
        # The engine counts whole seconds, and takes 0 for "kill at once".
        connection.stop(self._container_id, timeout=math.ceil(self._stop_timeout))
        if not self._is_orphan():
            return self._keep(connection)
        try:
            connection.remove_container(self._container_id)
        except APIError as error:
            if _IN_PROGRESS not in str(error):
                raise
            connection.wait(self._container_id, timeout=CALL_TIMEOUT, condition="removed")
        return ""

    def _keep(self, connection: Connection) -> str:
        connection.inspect_container(self._container_id)  # raises NotFound if the container is gone
        return _NO_ORPHAN
