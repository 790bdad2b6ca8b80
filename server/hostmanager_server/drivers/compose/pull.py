"""Pulls images through the Docker Engine, for everybody who wants to see it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import requests
from docker.errors import DockerException, ImageNotFound

from hostmanager_server.core.service import UNKNOWN_IMAGE
from hostmanager_server.core.spec import PullPolicy
from hostmanager_server.drivers.compose.connection import Connection, explain
from hostmanager_server.drivers.compose.progress import (
    Changes,
    ImageProgress,
    PullFailedError,
    PullItem,
    PullState,
    fold,
)
from hostmanager_server.threads import name_this_thread

PARALLEL = 3  # images at once
_FAILURES = (DockerException, requests.RequestException, OSError)


class Pull:
    """One pull. Watchers keep a version and ask what came after it, so none can make it grow.

    Every method may be called on any thread. Whoever follows it calls `join` before and `leave` after; when
    the last one has left, and nobody asked to detach, it stops.
    """

    def __init__(
        self, items: Sequence[PullItem], connect: Callable[[], Connection], parallel: int, timeout: float
    ) -> None:
        self._connect = connect
        self._timeout = timeout
        self._lock = threading.Lock()
        self._version = 0
        self._images = {item.image: ImageProgress(item.image, item.instance_ids) for item in items}
        self._versions = dict.fromkeys(self._images, 0)
        self._listeners: set[Callable[[], None]] = set()
        self._followers = 0
        self._detached = False
        self._cancelled = threading.Event()
        self._connections: dict[str, Connection] = {}  # of the images being pulled
        self._alive_at: dict[str, float] = {}  # when an image last made progress (s, monotonic)
        self._stalled: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(list(items), parallel), name="hm-pull", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def join(self, *, detach: bool) -> None:
        """Somebody more follows it."""
        with self._lock:
            self._followers += 1
            self._detached = self._detached or detach

    def leave(self) -> None:
        """Somebody follows it no more."""
        with self._lock:
            self._followers -= 1
            abandoned = not self._followers and not self._detached
        if abandoned:
            self.cancel()

    def cancel(self) -> None:
        """Stop: images that are not done are cancelled."""
        self._cancelled.set()
        with self._lock:
            connections = list(self._connections.values())
        for connection in connections:
            connection.abort()

    def wait_until_over(self) -> None:
        """Wait for its end."""
        self._thread.join()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def changes(self, since: int) -> Changes:
        """What changed after version `since`; -1 for all there is."""
        with self._lock:
            over = self._over.is_set()
            images = tuple(image for name, image in self._images.items() if self._versions[name] > since)
            return Changes(self._version, images, over)

    def counts(self) -> Mapping[PullState, int]:
        """How many images are in which state."""
        with self._lock:
            found = dict.fromkeys(PullState, 0)
            for image in self._images.values():
                found[image.state] += 1
            return found

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener`, on any thread, when something has changed. It must return at once."""
        with self._lock:
            self._listeners.add(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.discard(listener)

    # --- the work

    def _run(self, items: list[PullItem], parallel: int) -> None:
        name_this_thread("hm-pull")
        with ThreadPoolExecutor(parallel, "hm-pull", name_this_thread, ("hm-pull",)) as workers:
            left = {workers.submit(self._pull, item) for item in items}
            while left:
                # As often as a time-out could be missed by a noticeable part of it.
                _, left = wait(left, min(1.0, self._timeout / 10))
                self._abort_stalled()
        self._over.set()
        self._tell()

    def _abort_stalled(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [i for i, at in self._alive_at.items() if now - at >= self._timeout]
            self._stalled.update(late)
            connections = [self._connections[image] for image in late if image in self._connections]
        for connection in connections:
            connection.abort()

    def _pull(self, item: PullItem) -> None:
        try:
            state, message = self._outcome(item)
        except PullFailedError as error:
            state, message = PullState.FAILED, str(error)
        except _FAILURES as error:
            state, message = PullState.FAILED, explain(error)
        except Exception as error:  # a bug: the other images go on, and whoever watches is told
            state, message = PullState.FAILED, f"internal error: {error!r}"
        finally:
            with self._lock:
                self._alive_at.pop(item.image, None)
                self._connections.pop(item.image, None)
        if state is PullState.FAILED:
            if item.image in self._stalled:
                message = f"no progress for {self._timeout:g} s"
            elif self._cancelled.is_set():
                state, message = PullState.CANCELLED, "the pull was stopped"
            elif item.built:
                state, message = PullState.SKIPPED, f"to be built here; it cannot be pulled: {message}"
        self._put(replace(self._images[item.image], state=state, message=message))

    def _outcome(self, item: PullItem) -> tuple[PullState, str]:
        """Pull the image; how that ended. Raises PullFailedError, and as the connection does."""
        if self._cancelled.is_set():
            return PullState.CANCELLED, "the pull was stopped"
        if item.policy in (PullPolicy.NEVER, PullPolicy.BUILD):
            return PullState.SKIPPED, f"its pull_policy is {item.policy.value}"
        connection = self._connect()
        with self._lock:
            self._connections[item.image] = connection
            self._alive_at[item.image] = time.monotonic()
        try:
            if self._cancelled.is_set():
                return PullState.CANCELLED, "the pull was stopped"
            before = _image_id(connection, item.image)
            if item.policy is PullPolicy.MISSING and before != UNKNOWN_IMAGE:
                return PullState.SKIPPED, "the engine has it, and its pull_policy is missing"
            progress = replace(self._images[item.image], state=PullState.PULLING)
            self._put(progress)
            for message in connection.pull(item.image, stream=True, decode=True):
                folded = fold(progress, message)
                if folded != progress:
                    progress = folded
                    self._alive_at[item.image] = time.monotonic()
                    self._put(progress)
            after = _image_id(connection, item.image)
            self._put(replace(progress, image_id=after))
            if after == UNKNOWN_IMAGE:
                raise PullFailedError("the engine says that it is done, and does not have the image")
            return (PullState.UP_TO_DATE if after == before else PullState.PULLED), progress.message
        finally:
            connection.close()

    def _put(self, image: ImageProgress) -> None:
        with self._lock:
            self._version += 1
            self._images[image.image] = image
            self._versions[image.image] = self._version
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()


class Puller:
    """One pull at a time; who asks while one runs joins it."""

    def __init__(self, connect: Callable[[], Connection], *, parallel: int = PARALLEL) -> None:
        self._connect = connect
        self._parallel = parallel
        self._lock = threading.Lock()
        self._pull: Pull | None = None

    def join(self, items: Sequence[PullItem], *, detach: bool, progress_timeout: float) -> tuple[Pull, bool]:
        """The pull that runs, or one of these items; whether it ran already. The caller is to `leave` it."""
        with self._lock:
            pull = self._pull
            joined = pull is not None and not pull.over
            if pull is None or not joined:
                pull = self._pull = Pull(items, self._connect, self._parallel, progress_timeout)
            pull.join(detach=detach)
            if not joined:
                pull.start()
            return pull, joined

    def running(self) -> bool:
        """Whether there is a pull to join."""
        with self._lock:
            return self._pull is not None and not self._pull.over

    def close(self) -> None:
        """Stop what runs, and wait for its end."""
        with self._lock:
            pull = self._pull
        if pull is not None:
            pull.cancel()
            pull.wait_until_over()


def _image_id(connection: Connection, image: str) -> str:
    try:
        found = connection.inspect_image(image)  # type: ignore[no-untyped-call]  # its stub has no types
        return str(found["Id"])
    except ImageNotFound:
        return UNKNOWN_IMAGE
