"""The puller: one pull at a time, shared by all callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.pull.progress import PullItem
from hostmanager_server.drivers.compose.pull.pull import ImagePull, PullEnded

PARALLEL = 3  # images at once


class Puller:
    """The present pull; a second caller joins the running pull."""

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
        """Return the running or a new pull, and whether the pull ran already.

        A new pull pulls these items.

        The caller must `leave` the pull. `ended` is called, on another thread, with the progress of all
        images of a new pull. Callers cannot join a pull that is being stopped: a new pull begins when the old
        one has ended.
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
        """Return whether a pull runs that callers can join."""
        with self._lock:
            return self._pull is not None and self._pull.joinable

    def close(self) -> None:
        """Cancel the running pull, and wait for its end."""
        with self._lock:
            pull = self._pull
        if pull is not None:
            pull.cancel()
            pull.wait_until_over()
