"""Output files in the default directory, while the log directory of their host cannot be used."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

# Failures of a directory, not of the process or of the whole machine.
_UNUSABLE = frozenset(
    (
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
        errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.ENODEV, errno.ENXIO,
    )
)  # fmt: skip


class FallbackDirectory:
    """Knows which output files are in the default directory instead of their own; thread-safe."""

    def __init__(self, directory: str) -> None:
        """Take the default directory."""
        self._directory = Path(directory)
        self._lock = threading.Lock()
        self._moved: dict[Path, str] = {}  # why the directory of each file cannot be used
        self._report: Callable[[str], None] = lambda problem: None
        self._reported = ""

    def listen(self, report: Callable[[str], None]) -> None:
        """Call `report`, on any thread, with each new problem, or with an empty text when all are solved."""
        self._report = report

    @property
    def active(self) -> bool:
        """Whether any output file is in the default directory instead of its own."""
        return bool(self._moved)

    def place(self, path: Path) -> Path:
        """Return where an output file is now."""
        return self._instead(path) if path in self._moved else path

    def takes(self, path: Path, error: OSError) -> bool:
        """Move an output file that could not be opened; return False if the move would not help."""
        if error.errno not in _UNUSABLE or path.parent == self._directory:
            return False
        with self._lock:
            self._moved[path] = error.strerror or str(error)
        self._tell()
        return True

    def find(self, path: Path) -> None:
        """Find out whether an earlier daemon moved an output file."""
        if (
            path.parent == self._directory
            or os.path.lexists(path)
            or not os.path.lexists(self._instead(path))
        ):
            return
        try:
            os.stat(path.parent)
        except OSError as error:
            self.takes(path, error)
        else:
            if not os.access(path.parent, os.W_OK | os.X_OK):
                self.takes(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def clear(self, path: Path) -> None:
        """Note that an output file is in its own directory, or no longer needed."""
        if path in self._moved:
            with self._lock:
                self._moved.pop(path, None)
            self._tell()

    def _instead(self, path: Path) -> Path:
        return self._directory / path.name

    def _tell(self) -> None:
        with self._lock:
            problem = ""
            if self._moved:
                path, why = next(iter(self._moved.items()))
                count = len(self._moved)
                whose = f"of {count} instances" if count > 1 else f"in {path.name}"
                problem = (
                    f"cannot write the output {whose} to '{path.parent}': {why}; the output goes to "
                    f"'{self._directory}'. Correct 'log-dir' or the folder, and restart the instances"
                )
            changed, self._reported = problem != self._reported, problem
        if changed:
            self._report(problem)
