"""A watch on files, also through links and missing folders."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from inotify_simple import INotify, flags

from hostmanager_server.drivers.contract import Poller, Timer

log = logging.getLogger(__name__)

# An editor writes a file in several steps, and a checkout writes many files.
SETTLE_TIME = 0.1  # s without a change before the callback

_EVENTS = (
    flags.CLOSE_WRITE | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.ATTRIB
    | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
)  # fmt: skip
_FOLDER_EVENTS = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT


class FileWatch:
    """An inotify watch on the folders of the given files.

    The watch is on folders, because a file is often replaced by a new file of the same name, or does not
    exist yet. When inotify has no free watches, `problem` says so, and changes there stay unnoticed. Belongs
    to the supervisor thread.
    """

    def __init__(self, poller: Poller, changed: Callable[[], None]) -> None:
        self._poller = poller
        self._changed = changed
        self._inotify: INotify | None = None
        self._paths: frozenset[Path] = frozenset()
        self._names: dict[int, set[str]] = {}  # by watch: the names in its folder that matter
        self._timer: Timer | None = None
        self.problem = ""

    def watch(self, paths: Iterable[Path]) -> None:
        """Watch these files, and no others.

        The files need not exist; symbolic links are followed.
        """
        self._paths = frozenset(path.absolute() for path in paths)
        if self._inotify is None and self._paths:
            try:
                self._inotify = INotify()
            except OSError as error:
                self._report_problem(error)
                return
            self._poller.watch(self._inotify.fileno(), self._read)
        self._place_watches()

    def close(self) -> None:
        """Stop watching; no callback follows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._inotify is not None:
            self._poller.unwatch(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        self._names.clear()

    def _place_watches(self) -> None:
        """Put a watch on each folder where a change can matter."""
        if self._inotify is None:
            return
        wanted: dict[Path, set[str]] = {}
        for path in self._paths:
            for folder, name in _watched_folders(path):
                wanted.setdefault(folder, set()).add(name)
        before, self._names = self._names, {}
        for folder, names in wanted.items():
            try:
                watch = self._inotify.add_watch(folder, _EVENTS)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # removed; its parent sends an event
                    self._report_problem(error)
                continue
            self._names.setdefault(watch, set()).update(names)
        for watch in set(before) - set(self._names):
            try:
                self._inotify.rm_watch(watch)
            except OSError:
                continue  # the kernel removed the watch together with its folder

    def _read(self) -> None:
        assert self._inotify is not None
        matters = False
        for event in self._inotify.read(timeout=0):
            if event.mask & (flags.Q_OVERFLOW | _FOLDER_EVENTS):
                matters = matters or event.wd in self._names or event.wd < 0
            else:
                matters = matters or event.name in self._names.get(event.wd, ())
        if not matters:
            return
        self._place_watches()  # a folder may have come or gone, a link may lead elsewhere
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._poller.call_later(SETTLE_TIME, self._notify_changed)

    def _notify_changed(self) -> None:
        self._timer = None
        self._place_watches()
        self._changed()

    def _report_problem(self, error: OSError) -> None:
        if not self.problem:
            self.problem = (
                f"cannot watch the compose files: {error.strerror}; changes take effect on a reload only; "
                "raise fs.inotify.max_user_watches or max_user_instances"
            )
            log.warning("%s", self.problem)


def _watched_folders(path: Path) -> set[tuple[Path, str]]:
    """Return the folders, and names in them, that lead to the file.

    A change of such a name may make the path lead to another file.

    The names are the file's own, those of links on the path, and those of missing folders on the path.
    """
    found: set[tuple[Path, str]] = set()
    queue = [path]
    for _ in range(40):  # as many links as the kernel follows
        if not queue:
            break
        path = queue.pop()
        step = Path(path.anchor)
        for part in path.parts[1:]:
            at, step = step, step / part
            if step.is_symlink():
                found.add((at, part))
                rest = path.relative_to(step)
                queue.append((at / step.readlink() / rest).absolute())
                break
            if step == path or not step.exists():
                found.add((at, part))
                break
    return found
