"""Log directories that agents may write: files opened and created without following links."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from hostmanager_server.drivers.output.directory_walk import (
    RefusedFileError,
    link_target,
    open_directory,
)
from hostmanager_server.linux.accounts import describe_user

# A FIFO, a terminal or a lease of another process must neither block the daemon nor become its terminal.
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TRIES = 10  # while another process creates and removes the same name again and again
_REMEDY = "remove the file, or change 'log-dir'"


class LogDirectory:
    """An open log directory, closed by `with`.

    Agents may write to the directory and link any name there to any file. So the daemon uses a file only if
    the open descriptor belongs to a regular file with one name, owned by the daemon's user or by `user`, the
    agent's (a name or number; empty: none). In a `public` directory, new files have the mode 0644 less the
    daemon's umask, elsewhere 0640. Every method raises OSError with the full path, and
    RefusedFileError for a file that the daemon must not use.
    """

    def __init__(self, path: str, user: str = "", *, make: bool = False, public: bool = False) -> None:
        """Open the directory; with `make`, create missing directories (see open_directory)."""
        self._mode = 0o644 if public else 0o640
        self._path = path
        self._user = user
        self._fd = open_directory(path, make=make, public=public)

    @classmethod
    def find(cls, path: str, user: str = "") -> Self | None:
        """Open the directory, or return None when the directory does not exist."""
        try:
            return cls(path, user)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def __enter__(self) -> Self:
        """Return the open directory."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the directory."""
        os.close(self._fd)

    def path(self, name: str) -> str:
        """Return the full path of a file, for messages."""
        return f"{self._path}/{name}"

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open an existing file; the descriptor is non-blocking, and the caller closes it."""
        try:
            fd = os.open(name, flags | _CAREFULLY, dir_fd=self._fd)
        except OSError as error:
            if why := self._why_not_opened(name, error):
                raise RefusedFileError(self.path(name), why) from error
            raise OSError(error.errno, error.strerror, self.path(name)) from error
        try:
            self._check(name, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_for_append(self, name: str) -> int:
        """Open a file for appending, created if missing; the caller closes the descriptor."""
        for _ in range(_TRIES):
            if self.exists(name):
                with suppress(FileNotFoundError):  # removed meanwhile
                    return self.open(name, os.O_WRONLY | os.O_APPEND)
            with suppress(FileExistsError):  # another process created the file meanwhile
                return self._create(name, os.O_APPEND)
        raise OSError(
            errno.EBUSY, "another process creates and removes the file again and again", self.path(name)
        )

    def create(self, name: str) -> int:
        """Replace any file of this name by a new one, open for writing; the caller closes it."""
        for _ in range(_TRIES):
            self.remove(name)
            with suppress(FileExistsError):
                return self._create(name, 0)
        raise OSError(errno.EBUSY, "another process creates the file again and again", self.path(name))

    def status(self, name: str) -> os.stat_result:
        """Return the status of a file, for comparisons; `open` checks the file again."""
        with self._naming(name):
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            self._check(name, status)
            return status

    def exists(self, name: str) -> bool:
        """Return whether any directory entry has this name, even a dangling link."""
        return self.identity(name) is not None

    def identity(self, name: str) -> tuple[int, int] | None:
        """Return device and inode of the entry, without following a link; None if there is no entry."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def names(self) -> list[str]:
        """Return all names in the directory; none where the daemon may not list the directory."""
        with suppress(OSError):
            return os.listdir(self._fd)
        return []

    def rename(self, old: str, new: str) -> None:
        """Rename an entry, without following a link; an entry named `new` is replaced."""
        with self._naming(new):
            os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Remove an entry, without following a link; do nothing when there is no entry."""
        with self._naming(name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def _create(self, name: str, flags: int) -> int:
        with self._naming(name):
            flags |= os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY
            return os.open(name, flags, self._mode, dir_fd=self._fd)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Put the full path into an OSError, as the kernel only got a name in a directory."""
        try:
            yield
        except RefusedFileError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path(name)) from error

    def _check(self, name: str, status: os.stat_result) -> None:
        """Raise RefusedFileError unless the daemon may use the file of this status."""
        if why := self._why_refused(name, status):
            raise RefusedFileError(self.path(name), why)

    def _why_refused(self, name: str, status: os.stat_result) -> str:
        """Return why the daemon must not use the file; empty if the daemon may."""
        kind = status.st_mode
        if stat.S_ISLNK(kind):
            return self._why_link(name)
        if not stat.S_ISREG(kind):
            return f"the file is a {_kind(kind)}, not a regular file; {_REMEDY}"
        if status.st_nlink > 1:
            return f"the file is a hard link, with {status.st_nlink} names; {_REMEDY}"
        if status.st_uid != os.geteuid() and not (self._user and status.st_uid == _number(self._user)):
            return (
                f"the file belongs to {describe_user(status.st_uid)}, neither to the daemon's user "
                f"nor to the agent's user; {_REMEDY}"
            )
        return ""

    def _why_not_opened(self, name: str, error: OSError) -> str:
        """Return why open(2) failed for a file that the daemon must not use; empty for other errors."""
        if error.errno == errno.EAGAIN:
            return "another process holds a lease on the file; end that process"
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return ""
        with suppress(OSError):
            return self._why_refused(name, os.stat(name, dir_fd=self._fd, follow_symlinks=False))
        return ""

    def _why_link(self, name: str) -> str:
        with suppress(OSError):
            link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                return f"the file is a link to {link_target(link)}; {_REMEDY}"
            finally:
                os.close(link)
        return f"the file is a link; {_REMEDY}"


def _kind(mode: int) -> str:
    for is_kind, word in ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket")):
        if is_kind(mode):
            return word
    return "device"


def _number(user: str) -> int | None:
    """Return the number of a user, or None for an unknown name."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
