"""The thread that follows the status for the screen, and reports to the main thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from hostmanager_client.cli.screen.model import ScreenModel
from hostmanager_client.errors import HostManagerError
from hostmanager_client.reconnect import ConnectionChange
from hostmanager_client.state import HostState
from hostmanager_client.sync import HostManagerClient

# s; the screen notices a silent daemon after 2.5 heartbeats.
HEARTBEAT = 2.0


class Feed:
    """Reports of a watch, which the main thread takes into its model."""

    def __init__(
        self,
        client: HostManagerClient,
        names: Sequence[str],
        wake: Callable[[], None],
        *,
        failing: bool = False,
    ) -> None:
        self.error: HostManagerError | None = None  # the end of the watch
        self._client = client
        self._names = names
        self._failing = failing
        self._wake = wake
        self._reports: queue.SimpleQueue[Callable[[ScreenModel], None]] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread; it ends when the client is closed."""
        threading.Thread(target=self._follow, name="hostmanager-feed", daemon=True).start()

    def take(self, model: ScreenModel) -> None:
        """Take all reports that have arrived into the model."""
        while True:
            try:
                report = self._reports.get_nowait()
            except queue.Empty:
                return
            report(model)

    def _follow(self) -> None:
        try:
            updates = self._client.watch(
                self._names,
                failing=self._failing,
                heartbeat=HEARTBEAT,
                on_connection=self._connection,
                on_contact=self._contact,
            )
            for update in updates:
                self._take_state(update.state)
        except HostManagerError as error:
            self.error = error
            self._wake()

    def _take_state(self, state: HostState) -> None:
        now = time.monotonic()
        self._report(lambda model: model.take_state(state, now))

    def _contact(self) -> None:
        now = time.monotonic()
        self._report(lambda model: model.heard(now))

    def _connection(self, change: ConnectionChange) -> None:
        now = time.monotonic()
        self._report(lambda model: model.take_connection(change, now))

    def _report(self, report: Callable[[ScreenModel], None]) -> None:
        self._reports.put(report)
        self._wake()
