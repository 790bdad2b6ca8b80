"""A watch on files: calls back when what is to be read at their paths may be other than before."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from inotify_simple import INotify, flags

from hostmanager_server.drivers.contract import Poller, Timer

log = logging.getLogger(__name__)

# An editor writes a file in several steps, and a checkout writes many files.
SETTLE = 0.1  # s without a change before it is told

_EVENTS = (
    flags.CLOSE_WRITE | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.ATTRIB
    | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
)  # fmt: skip
_FOLDER_EVENTS = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT


class FileWatch:
    """Watches the folders of the files, as a file is often replaced by another of its name, or is not there
    yet. Belongs to the supervisor thread.

    Where inotify has no more watches to give, `problem` says so, and changes there go unnoticed.
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
        """Watch these files, and no others. They need not exist; symbolic links are followed."""
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
        """Watch nothing any more, and call back no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._inotify is not None:
            self._poller.unwatch(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        self._names.clear()

    def _place_watches(self) -> None:
        """Have a watch on each folder that there is something to be seen in."""
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
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # gone since, of which its parent tells
                    self._report_problem(error)
                continue
            self._names.setdefault(watch, set()).update(names)
        for watch in set(before) - set(self._names):
            try:
                self._inotify.rm_watch(watch)
            except OSError:
                continue  # the kernel took it away with its folder

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
        self._timer = self._poller.call_later(SETTLE, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self._place_watches()
        self._changed()

    def _report_problem(self, error: OSError) -> None:
        if not self.problem:
            self.problem = (
                f"changes of compose files are noticed on a reload only ({error.strerror}): "
                "raise fs.inotify.max_user_watches or max_user_instances"
            )
            log.warning("%s", self.problem)


def _watched_folders(path: Path) -> set[tuple[Path, str]]:
    """Each folder in which a change may make the path lead to another file, with the name that matters there:
    its own, those of the links that it leads through, and of folders on the way that do not exist."""
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
