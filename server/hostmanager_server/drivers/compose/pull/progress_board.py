"""The progress board: the state of all images of a pull.

Any number of watchers can read the board.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from hostmanager.values import dataclass

from hostmanager_server.drivers.compose.pull.progress import ImageProgress, PullState


@dataclass(frozen=True, slots=True)
class PullChanges:
    """The images that changed after a version, up to `version`.

    No change follows when `over`.
    """

    version: int
    images: tuple[ImageProgress, ...]
    over: bool


class ProgressBoard:
    """The progress of all images, with a version for every change.

    A watcher keeps a version and requests the changes since then, so even a slow watcher costs no memory.
    Thread-safe.
    """

    def __init__(self, images: Iterable[ImageProgress]) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._images = {image.image: image for image in images}
        self._versions = dict.fromkeys(self._images, 0)
        self._listeners: set[Callable[[], None]] = set()
        self._over = False

    @property
    def over(self) -> bool:
        """Whether no change follows."""
        return self._over

    def changes(self, since: int) -> PullChanges:
        """Return the changes after version `since`; -1 for all images."""
        with self._lock:
            images = tuple(image for name, image in self._images.items() if self._versions[name] > since)
            return PullChanges(self._version, images, self._over)

    def counts(self) -> Mapping[PullState, int]:
        """Return the number of images in each state."""
        with self._lock:
            found = dict.fromkeys(PullState, 0)
            for image in self._images.values():
                found[image.state] += 1
            return found

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change, on any thread.

        The listener must return at once.
        """
        with self._lock:
            self._listeners.add(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Stop calling the listener."""
        with self._lock:
            self._listeners.discard(listener)

    def image(self, name: str) -> ImageProgress:
        """Return the progress of an image."""
        with self._lock:
            return self._images[name]

    def put(self, image: ImageProgress) -> bool:
        """Publish the progress of an image, unless its pull has ended.

        Returns whether the progress was published.
        """
        with self._lock:
            if self._images[image.image].state.over:
                return False
            self._version += 1
            self._images[image.image] = image
            self._versions[image.image] = self._version
        self._notify()
        return True

    def finish(self) -> None:
        """Mark the end of all changes."""
        with self._lock:
            self._over = True
        self._notify()

    def _notify(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()
