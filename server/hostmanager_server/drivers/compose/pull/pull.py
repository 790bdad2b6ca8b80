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
_GRACE = 2.0
_FAILURES = (
    DockerException,
    StreamParseError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)
_STOPPED = (PullState.CANCELLED, "the pull was stopped")

ImageOutcome = tuple[PullState, str]
PullEnded = Callable[[Sequence[ImageProgress]], None]


@dataclass(slots=True, eq=False)
class _Work:
    """An image that a thread is pulling. Guarded by the pull's `_news`, but for `alive_at`."""

    item: PullItem
    alive_at: float  # when the engine last told of progress (s, monotonic)
    connection: Connection | None = None
    verdict: ImageOutcome | None = None  # of whoever cut it off
    cut_at: float = 0.0
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
        self._news = threading.Condition()  # guards what follows
        self._waiting = deque(items)
        self._works: list[_Work] = []
        self._followers = 0
        self._detached = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, *, detach: bool) -> bool:
        """Somebody more follows it. Whether that is possible: not when it is over, or being stopped."""
        with self._news:
            if self._stopping or self.over:
                return False
            self._followers += 1
            self._detached = self._detached or detach
            return True

    def leave(self) -> None:
        """Somebody follows it no more."""
        with self._news:
            self._followers -= 1
            if not self._followers and not self._detached:
                self.cancel()

    def cancel(self) -> None:
        """Stop: images that are not done are cancelled. Returns at once."""
        with self._news:
            self._stopping = True
            self._news.notify()

    @property
    def joinable(self) -> bool:
        with self._news:
            return not (self._stopping or self.over)

    def wait_until_over(self) -> None:
        self._thread.join()

    # --- on its own thread

    def _run(self) -> None:
        name_this_thread(_THREAD)
        if self._after is not None:
            self._after.wait_until_over()
            self._after = None  # which has one before it, too
        with self._news:
            while self._waiting or self._works:
                self._news.wait(self._look(time.monotonic()))
            self._stopping = True  # there is nothing left of it to join
        try:
            self._ended(self.changes(-1).images)
        finally:
            self.finish()

    def _look(self, now: float) -> float | None:
        """Begin, cut off and give up what is to be now; for how long (s) there is nothing to do."""
        while self._stopping and self._waiting:
            self._settle(self._waiting.popleft(), *_STOPPED)
        for work in self._works:
            if work.over or work.verdict is not None:
                continue
            if self._stopping:
                self._cut(work, _STOPPED, now)
            elif now - work.alive_at >= self._timeout:
                self._cut(work, (PullState.FAILED, f"no progress for {self._timeout:g} s"), now)
        for work in self._works:
            if work.verdict is not None and not work.over and now - work.cut_at >= _GRACE:
                self._settle(work.item, *work.verdict)
                work.over = True
        self._works = [work for work in self._works if not work.over]
        while self._waiting and len(self._works) < self._parallel:
            work = _Work(self._waiting.popleft(), now)
            self._works.append(work)
            threading.Thread(target=self._do, args=(work,), name=_THREAD, daemon=True).start()
        if not self._works:
            return 0.0
        return max(0.0, min(self._next_look(work) for work in self._works) - now)

    def _next_look(self, work: _Work) -> float:
        return work.alive_at + self._timeout if work.verdict is None else work.cut_at + _GRACE

    def _cut(self, work: _Work, verdict: ImageOutcome, now: float) -> None:
        work.verdict, work.cut_at = verdict, now
        if work.connection is not None:
            work.connection.abort()

    def _settle(self, item: PullItem, state: PullState, message: str) -> None:
        if state is PullState.FAILED and item.built:
            state, message = PullState.SKIPPED, f"to be built here; it cannot be pulled: {message}"
        self.put(replace(self.image(item.image), state=state, message=message))

    # --- on the thread of one image

    def _do(self, work: _Work) -> None:
        name_this_thread(_THREAD)
        try:
            state, message = self._outcome(work)
        except (PullFailedError, CredentialsError) as error:
            state, message = PullState.FAILED, str(error)
        except _FAILURES as error:
            state, message = PullState.FAILED, explain(error)
        except Exception:  # a bug: the other images go on, and whoever watches is told
            log.exception("the pull of %s failed by a bug of the daemon", work.item.image)
            state, message = PullState.FAILED, "an error of the daemon itself; its log has the traceback"
        with self._news:
            if state is PullState.FAILED and work.verdict is not None:
                state, message = work.verdict
            self._settle(work.item, state, message)
            work.over = True
            self._news.notify()

    def _outcome(self, work: _Work) -> ImageOutcome:
        """Pull the image; how that ended. Raises as the connection and the credentials do, and
        PullFailedError."""
        item = work.item
        if (why := _skipped(item)) is not None:
            return PullState.SKIPPED, why
        connection = self._connect()
        try:
            with self._news:
                if work.verdict is not None:
                    return work.verdict
                work.connection = connection
            before = _image_id(connection, item.image)
            if item.policy is PullPolicy.MISSING and before != UNKNOWN_IMAGE:
                return PullState.SKIPPED, "the engine has it, and its pull_policy is missing"
            self.put(replace(self.image(item.image), state=PullState.PULLING))
            message = self._pull(connection, work)
            after = _image_id(connection, item.image)
            self.put(replace(self.image(item.image), image_id=after))
            if after == UNKNOWN_IMAGE:
                raise PullFailedError("the engine says that it is done, and does not have the image")
            return (PullState.UP_TO_DATE if after == before else PullState.PULLED), message
        finally:
            with self._news:
                work.connection = None
            connection.close()

    def _pull(self, connection: Connection, work: _Work) -> str:
        """Have the engine pull the image, and show how it gets on; its last word."""
        item = work.item
        credentials = credentials_for(item.image)
        progress = self.image(item.image)
        for message in connection.pull(
            item.image, stream=True, decode=True, auth_config=credentials, platform=item.platform or None
        ):
            work.alive_at = time.monotonic()
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
