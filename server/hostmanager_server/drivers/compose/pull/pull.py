"""One pull of several images through the Docker Engine, some of them at once."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import requests
import urllib3
from docker.errors import DockerException, ImageNotFound, StreamParseError
from hostmanager.values import dataclass, replace

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
# s for a thread to end once its connection is aborted; then the pull goes on without the thread, which may
# wait for a credential helper.
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
class _ImageJob:
    """An image that a thread is pulling.

    `ImagePull._changed` guards all fields but `alive_at`.
    """

    item: PullItem
    alive_at: float  # time of the last progress message (s, monotonic)
    connection: Connection | None = None
    forced_outcome: ImageOutcome | None = None  # set when the pull was cut off
    cut_off_at: float = 0.0
    over: bool = False


class ImagePull(ProgressBoard):
    """One pull, with its progress on the board. Thread-safe.

    A caller that follows the pull calls `join` before and `leave` after. When the last caller has left, and
    none asked to detach, the pull stops.
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
        """Prepare a pull that begins when the pull `after` has ended.

        `timeout` is the longest time (s) without progress of an image. At the end, the pull calls `ended`
        with the progress of all images, on its own thread, and only then is over: a watcher that learns
        of the end finds all consequences done.
        """
        super().__init__(ImageProgress(item.image, item.instance_ids) for item in items)
        self._connect = connect
        self._parallel = parallel
        self._timeout = timeout
        self._ended = ended
        self._after = after
        self._changed = threading.Condition()  # guards all fields below
        self._waiting = deque(items)
        self._jobs: list[_ImageJob] = []
        self._followers = 0
        self._detached = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, *, detach: bool) -> bool:
        """Count one more follower; return False for a pull that is over or being stopped."""
        with self._changed:
            if self._stopping or self.over:
                return False
            self._followers += 1
            self._detached = self._detached or detach
            return True

    def leave(self) -> None:
        """Count one follower less, and stop the pull after the last."""
        with self._changed:
            self._followers -= 1
            if not self._followers and not self._detached:
                self.cancel()

    def cancel(self) -> None:
        """Cancel all images that are not done. Returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def joinable(self) -> bool:
        """Whether `join` would succeed."""
        with self._changed:
            return not (self._stopping or self.over)

    def wait_until_over(self) -> None:
        """Wait for the end of the pull."""
        self._thread.join()

    # --- on the thread of the pull

    def _run(self) -> None:
        name_this_thread(_THREAD)
        if self._after is not None:
            self._after.wait_until_over()
            self._after = None  # frees the chain of earlier pulls
        with self._changed:
            while self._waiting or self._jobs:
                self._changed.wait(self._advance(time.monotonic()))
            self._stopping = True  # refuses further joins
        try:
            self._ended(self.changes(-1).images)
        finally:
            self.finish()

    def _advance(self, now: float) -> float | None:
        """Start, cut off and give up images as due; return the time until the next.

        The time is in s.
        """
        while self._stopping and self._waiting:
            self._set_outcome(self._waiting.popleft(), *_CANCELLED)
        for job in self._jobs:
            if job.over or job.forced_outcome is not None:
                continue
            if self._stopping:
                self._cut_off(job, _CANCELLED, now)
            elif now - job.alive_at >= self._timeout:
                self._cut_off(job, (PullState.FAILED, f"no progress for {self._timeout:g} s"), now)
        for job in self._jobs:
            if job.forced_outcome is not None and not job.over and now - job.cut_off_at >= _CUT_OFF_GRACE:
                self._set_outcome(job.item, *job.forced_outcome)
                job.over = True
        self._jobs = [job for job in self._jobs if not job.over]
        while self._waiting and len(self._jobs) < self._parallel:
            job = _ImageJob(self._waiting.popleft(), now)
            self._jobs.append(job)
            threading.Thread(target=self._pull_on_thread, args=(job,), name=_THREAD, daemon=True).start()
        if not self._jobs:
            return 0.0
        return max(0.0, min(self._next_deadline(job) for job in self._jobs) - now)

    def _next_deadline(self, job: _ImageJob) -> float:
        return job.alive_at + self._timeout if job.forced_outcome is None else job.cut_off_at + _CUT_OFF_GRACE

    def _cut_off(self, job: _ImageJob, forced_outcome: ImageOutcome, now: float) -> None:
        job.forced_outcome, job.cut_off_at = forced_outcome, now
        if job.connection is not None:
            job.connection.abort()

    def _set_outcome(self, item: PullItem, state: PullState, message: str) -> None:
        if state is PullState.FAILED and item.built:
            state, message = PullState.SKIPPED, f"to be built here, because the pull failed: {message}"
        self.put(replace(self.image(item.image), state=state, message=message))

    # --- on the thread of one image

    def _pull_on_thread(self, job: _ImageJob) -> None:
        name_this_thread(_THREAD)
        try:
            state, message = self._pull_image(job)
        except (PullFailedError, CredentialsError) as error:
            state, message = PullState.FAILED, str(error)
        except _FAILURES as error:
            state, message = PullState.FAILED, explain(error)
        except Exception:  # a bug: the other images go on, and watchers get the failure
            log.exception("cannot pull %s: a bug of the daemon", job.item.image)
            state, message = PullState.FAILED, "a bug of the daemon; its log has the traceback"
        with self._changed:
            if state is PullState.FAILED and job.forced_outcome is not None:
                state, message = job.forced_outcome
            self._set_outcome(job.item, state, message)
            job.over = True
            self._changed.notify()

    def _pull_image(self, job: _ImageJob) -> ImageOutcome:
        """Pull the image and return the outcome.

        Raises PullFailedError, and the errors of the connection and the credentials.
        """
        item = job.item
        if (why := _skipped(item)) is not None:
            return PullState.SKIPPED, why
        connection = self._connect()
        try:
            with self._changed:
                if job.forced_outcome is not None:
                    return job.forced_outcome
                job.connection = connection
            before = _image_id(connection, item.image)
            if item.policy is PullPolicy.MISSING and before != UNKNOWN_IMAGE:
                return PullState.SKIPPED, "the engine has the image, and its pull_policy is missing"
            self.put(replace(self.image(item.image), state=PullState.PULLING))
            message = self._pull(connection, job)
            after = _image_id(connection, item.image)
            self.put(replace(self.image(item.image), image_id=after))
            if after == UNKNOWN_IMAGE:
                raise PullFailedError("the engine reports success, but does not have the image")
            return (PullState.UP_TO_DATE if after == before else PullState.PULLED), message
        finally:
            with self._changed:
                job.connection = None
            connection.close()

    def _pull(self, connection: Connection, job: _ImageJob) -> str:
        """Pull the image, publish the progress, and return the last message."""
        item = job.item
        credentials = credentials_for(item.image)
        progress = self.image(item.image)
        for message in connection.pull(
            item.image, stream=True, decode=True, auth_config=credentials, platform=item.platform or None
        ):
            job.alive_at = time.monotonic()
            folded = fold(progress, message)
            if folded != progress:
                progress = folded
                self.put(progress)
        return progress.message


def _skipped(item: PullItem) -> str | None:
    """Return why an image needs no registry, or None."""
    match item.policy:
        case PullPolicy.NEVER:
            return "its pull_policy is never"
        case PullPolicy.BUILD:
            return "the image is built here"
        case PullPolicy.ALWAYS | PullPolicy.MISSING:
            return None


def _image_id(connection: Connection, image: str) -> str:
    try:
        found = connection.inspect_image(image)  # type: ignore[no-untyped-call]  # its stub has no types
        return str(found["Id"])
    except ImageNotFound:
        return UNKNOWN_IMAGE
