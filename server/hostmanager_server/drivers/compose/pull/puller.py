"""Sees to it that there is one pull at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.pull.progress import PullItem
from hostmanager_server.drivers.compose.pull.pull import ImagePull, PullEnded

PARALLEL = 3  # images at once


class Puller:
    """One pull at a time; who asks while one runs joins it."""

    def __init__(self, connect: Callable[[], Connection], *, parallel: int = PARALLEL) -> None:
        self._connect = connect
        self._parallel = parallel
        self._lock = threading.Lock()
        self._pull: ImagePull | None = None

    def join(
        self,
        items: Sequence[PullItem],
        *,
        detach: bool,
        progress_timeout: float,
        ended: PullEnded = lambda images: None,
    ) -> tuple[ImagePull, bool]:
        """The pull that runs, or one of these items; whether it ran already. The caller is to `leave` it.

        `ended` is called, on another thread, with what became of the images of a pull that this begins.
        One that is being stopped is nobody's to join: the new one begins when it has ended.
        """
        with self._lock:
            before = self._pull
            if before is not None and before.join(detach=detach):
                return before, True
            pull = ImagePull(items, self._connect, self._parallel, progress_timeout, ended, before)
            self._pull = pull
            pull.join(detach=detach)
            pull.start()
            return pull, False

    def running(self) -> bool:
        """Whether there is a pull to join."""
        with self._lock:
            return self._pull is not None and self._pull.joinable

    def close(self) -> None:
        """Stop what runs, and wait for its end."""
        with self._lock:
            pull = self._pull
        if pull is not None:
            pull.cancel()
            pull.wait_until_over()
