"""Pulls images through the Docker Engine, several at once."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import requests
import urllib3
from docker.errors import DockerException, ImageNotFound, StreamParseError

from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.core.spec import PullPolicy
from hostmanager_server.drivers.compose.engine.connection import Connection, explain
from hostmanager_server.drivers.compose.engine.credentials import CredentialsError, credentials_for
from hostmanager_server.drivers.compose.pull.progress import (
    ImageProgress,
    PullFailedError,
    PullItem,
    PullState,
    fold,
)
from hostmanager_server.drivers.compose.pull.progress_board import ProgressBoard
from hostmanager_server.linux.thread_names import name_this_thread

log = logging.getLogger(__name__)

_THREAD = "hm-pull"
# s for a thread to end once its connection is cut; then it is left behind. A credential helper may hold it.
_CUT_OFF_GRACE = 2.0
_FAILURES = (
    DockerException,
    StreamParseError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)
_CANCELLED = (PullState.CANCELLED, "the pull was stopped")

ImageOutcome = tuple[PullState, str]
PullEnded = Callable[[Sequence[ImageProgress]], None]


@dataclass(slots=True, eq=False)
class _RunningPull:
    """An image that a thread is pulling. Guarded by the pull's `_changed`, but for `alive_at`."""

    item: PullItem
    alive_at: float  # when the engine last told of progress (s, monotonic)
    connection: Connection | None = None
    verdict: ImageOutcome | None = None  # of whoever cut it off
    cut_off_at: float = 0.0
    over: bool = False


class ImagePull(ProgressBoard):
    """One pull: what it has got to is on the board. Every method may be called on any thread.

    Whoever follows it calls `join` before and `leave` after; when the last one has left, and nobody asked to
    detach, it stops.
    """

    def __init__(
        self,
        items: Sequence[PullItem],
        connect: Callable[[], Connection],
        parallel: int,
        timeout: float,
        ended: PullEnded,
        after: ImagePull | None,
    ) -> None:
        """`timeout` is the longest time (s) an image may make no progress. Begins when `after` has ended.
        When it has itself, it calls `ended` with what became of the images, on a thread of its own, and is
        over when that returns: whoever is told so finds everything done."""
        super().__init__(ImageProgress(item.image, item.instance_ids) for item in items)
        self._connect = connect
        self._parallel = parallel
        self._timeout = timeout
        self._ended = ended
        self._after = after
        self._changed = threading.Condition()  # guards what follows
        self._waiting = deque(items)
        self._running_pulls: list[_RunningPull] = []
        self._followers = 0
        self._detached = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, *, detach: bool) -> bool:
        """Somebody more follows it. Whether that is possible: not when it is over, or being stopped."""
        with self._changed:
            if self._stopping or self.over:
                return False
            self._followers += 1
            self._detached = self._detached or detach
            return True

    def leave(self) -> None:
        """Somebody follows it no more."""
        with self._changed:
            self._followers -= 1
            if not self._followers and not self._detached:
                self.cancel()

    def cancel(self) -> None:
        """Stop: images that are not done are cancelled. Returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def joinable(self) -> bool:
        with self._changed:
            return not (self._stopping or self.over)

    def wait_until_over(self) -> None:
        self._thread.join()

    # --- on its own thread

    def _run(self) -> None:
        name_this_thread(_THREAD)
        if self._after is not None:
            self._after.wait_until_over()
            self._after = None  # which has one before it, too
        with self._changed:
            while self._waiting or self._running_pulls:
                self._changed.wait(self._advance(time.monotonic()))
            self._stopping = True  # there is nothing left of it to join
        try:
            self._ended(self.changes(-1).images)
        finally:
            self.finish()

    def _advance(self, now: float) -> float | None:
        """Begin, cut off and give up what is to be now; for how long (s) there is nothing to do."""
        while self._stopping and self._waiting:
            self._set_outcome(self._waiting.popleft(), *_CANCELLED)
        for running in self._running_pulls:
            if running.over or running.verdict is not None:
                continue
            if self._stopping:
                self._cut_off(running, _CANCELLED, now)
            elif now - running.alive_at >= self._timeout:
                self._cut_off(running, (PullState.FAILED, f"no progress for {self._timeout:g} s"), now)
        for running in self._running_pulls:
            if (
                running.verdict is not None
                and not running.over
                and now - running.cut_off_at >= _CUT_OFF_GRACE
            ):
                self._set_outcome(running.item, *running.verdict)
                running.over = True
        self._running_pulls = [running for running in self._running_pulls if not running.over]
        while self._waiting and len(self._running_pulls) < self._parallel:
            running = _RunningPull(self._waiting.popleft(), now)
            self._running_pulls.append(running)
            threading.Thread(target=self._pull_on_thread, args=(running,), name=_THREAD, daemon=True).start()
        if not self._running_pulls:
            return 0.0
        return max(0.0, min(self._next_deadline(running) for running in self._running_pulls) - now)

    def _next_deadline(self, running: _RunningPull) -> float:
        return (
            running.alive_at + self._timeout
            if running.verdict is None
            else running.cut_off_at + _CUT_OFF_GRACE
        )

    def _cut_off(self, running: _RunningPull, verdict: ImageOutcome, now: float) -> None:
        running.verdict, running.cut_off_at = verdict, now
        if running.connection is not None:
            running.connection.abort()

    def _set_outcome(self, item: PullItem, state: PullState, message: str) -> None:
        if state is PullState.FAILED and item.built:
            state, message = PullState.SKIPPED, f"to be built here; it cannot be pulled: {message}"
        self.put(replace(self.image(item.image), state=state, message=message))

    # --- on the thread of one image

    def _pull_on_thread(self, running: _RunningPull) -> None:
        name_this_thread(_THREAD)
        try:
            state, message = self._pull_image(running)
        except (PullFailedError, CredentialsError) as error:
            state, message = PullState.FAILED, str(error)
        except _FAILURES as error:
            state, message = PullState.FAILED, explain(error)
        except Exception:  # a bug: the other images go on, and whoever watches is told
            log.exception("the pull of %s failed by a bug of the daemon", running.item.image)
            state, message = PullState.FAILED, "an error of the daemon itself; its log has the traceback"
        with self._changed:
            if state is PullState.FAILED and running.verdict is not None:
                state, message = running.verdict
            self._set_outcome(running.item, state, message)
            running.over = True
            self._changed.notify()

    def _pull_image(self, running: _RunningPull) -> ImageOutcome:
        """Pull the image; how that ended. Raises as the connection and the credentials do, and
        PullFailedError."""
        item = running.item
        if (why := _skipped(item)) is not None:
            return PullState.SKIPPED, why
        connection = self._connect()
        try:
            with self._changed:
                if running.verdict is not None:
                    return running.verdict
                running.connection = connection
            before = _image_id(connection, item.image)
            if item.policy is PullPolicy.MISSING and before != UNKNOWN_IMAGE:
                return PullState.SKIPPED, "the engine has it, and its pull_policy is missing"
            self.put(replace(self.image(item.image), state=PullState.PULLING))
            message = self._pull(connection, running)
            after = _image_id(connection, item.image)
            self.put(replace(self.image(item.image), image_id=after))
            if after == UNKNOWN_IMAGE:
                raise PullFailedError("the engine says that it is done, and does not have the image")
            return (PullState.UP_TO_DATE if after == before else PullState.PULLED), message
        finally:
            with self._changed:
                running.connection = None
            connection.close()

    def _pull(self, connection: Connection, running: _RunningPull) -> str:
        """Have the engine pull the image, and show how it gets on; its last word."""
        item = running.item
        credentials = credentials_for(item.image)
        progress = self.image(item.image)
        for message in connection.pull(
            item.image, stream=True, decode=True, auth_config=credentials, platform=item.platform or None
        ):
            running.alive_at = time.monotonic()
            folded = fold(progress, message)
            if folded != progress:
                progress = folded
                self.put(progress)
        return progress.message


def _skipped(item: PullItem) -> str | None:
    """Why there is nothing to ask a registry for; None: there is."""
    match item.policy:
        case PullPolicy.NEVER:
            return "its pull_policy is never"
        case PullPolicy.BUILD:
            return "it is built here"
        case PullPolicy.ALWAYS | PullPolicy.MISSING:
            return None


def _image_id(connection: Connection, image: str) -> str:
    try:
        found = connection.inspect_image(image)  # type: ignore[no-untyped-call]  # its stub has no types
        return str(found["Id"])
    except ImageNotFound:
        return UNKNOWN_IMAGE
