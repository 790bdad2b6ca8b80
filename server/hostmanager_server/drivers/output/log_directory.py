"""Files of a log directory that agents may write, opened without their links."""

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
    user_name,
)

# A FIFO, a terminal or a lease of another process must neither hold up the daemon nor become anything of its.
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TRIES = 10  # where another process makes and removes the same name again and again
_REMEDY = "remove it, or change 'log-dir'"


class LogFolder:
    """A log directory that is held open for one use, and closed by `with`.

    Agents may write the directory, and link any name in it to any file. So a file counts only if the open
    descriptor is that of a regular file with one name, which belongs to the daemon's user or to `user`, the
    agent's (a name or number; empty: none). Every method raises OSError with the full path, and
    RefusedFileError for a file that must not be used.
    """

    def __init__(self, path: str, user: str = "", *, make: bool = False) -> None:
        """Open the directory; with `make`, create what is missing. See open_directory."""
        self._path = path
        self._user = user
        self._fd = open_directory(path, make=make)

    @classmethod
    def find(cls, path: str, user: str = "") -> Self | None:
        """Open the directory; None when there is none."""
        try:
            return cls(path, user)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def path(self, name: str) -> str:
        """The full path of a file, for messages."""
        return f"{self._path}/{name}"

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file that is there; the descriptor does not block, and the caller closes it."""
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
        """Open a file to append to, created when missing (0640); the caller closes the descriptor."""
        for _ in range(_TRIES):
            try:
                return self.open(name, os.O_WRONLY | os.O_APPEND)
            except FileNotFoundError:
                with suppress(FileExistsError):  # made by another meanwhile
                    return self._create(name, os.O_APPEND)
        raise OSError(errno.EBUSY, "made and removed again and again", self.path(name))

    def create(self, name: str) -> int:
        """Open a new file for writing (0640) in the place of what has this name; the caller closes it."""
        for _ in range(_TRIES):
            self.remove(name)
            with suppress(FileExistsError):
                return self._create(name, 0)
        raise OSError(errno.EBUSY, "made by others again and again", self.path(name))

    def status(self, name: str) -> os.stat_result:
        """The status of a file, to compare; what is opened later is looked at again."""
        with self._naming(name):
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            self._check(name, status)
            return status

    def exists(self, name: str) -> bool:
        """Whether anything has this name, be it a link to nothing."""
        return self.identity(name) is not None

    def identity(self, name: str) -> tuple[int, int] | None:
        """Device and inode of what has this name, a link's own; None for nothing."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def names(self) -> list[str]:
        """All names in the directory; none where the daemon may not list it."""
        with suppress(OSError):
            return os.listdir(self._fd)
        return []

    def rename(self, old: str, new: str) -> None:
        """Give what is called `old`, be it a link, the name `new`; what had that one is gone."""
        with self._naming(new):
            os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Take this name away: of a link the link. Nothing happens when there is none."""
        with self._naming(name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def _create(self, name: str, flags: int) -> int:
        with self._naming(name):
            flags |= os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY
            return os.open(name, flags, 0o640, dir_fd=self._fd)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Give an OSError the full path: the kernel was told a name in a directory only."""
        try:
            yield
        except RefusedFileError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path(name)) from error

    def _check(self, name: str, status: os.stat_result) -> None:
        """Raise RefusedFileError unless the file of this status may be used."""
        if why := self._why_refused(name, status):
            raise RefusedFileError(self.path(name), why)

    def _why_refused(self, name: str, status: os.stat_result) -> str:
        """Empty when the file may be used."""
        kind = status.st_mode
        if stat.S_ISLNK(kind):
            return self._why_link(name)
        if not stat.S_ISREG(kind):
            return f"it is a {_kind(kind)}, and no regular file; {_REMEDY}"
        if status.st_nlink > 1:
            return f"it is a hard link: the file has {status.st_nlink} names; {_REMEDY}"
        if status.st_uid != os.geteuid() and not (self._user and status.st_uid == _number(self._user)):
            return (
                f"it belongs to user {user_name(status.st_uid)}, and neither to the daemon's user "
                f"nor to that of the agent; {_REMEDY}"
            )
        return ""

    def _why_not_opened(self, name: str, error: OSError) -> str:
        """The refusal that an error of open(2) stands for; empty: none."""
        if error.errno == errno.EAGAIN:
            return "another process holds a lease on it; end that process"
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return ""
        with suppress(OSError):
            return self._why_refused(name, os.stat(name, dir_fd=self._fd, follow_symlinks=False))
        return ""

    def _why_link(self, name: str) -> str:
        with suppress(OSError):
            link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                return f"it is a link to {link_target(link)}; {_REMEDY}"
            finally:
                os.close(link)
        return f"it is a link; {_REMEDY}"


def _kind(mode: int) -> str:
    for is_kind, word in ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket")):
        if is_kind(mode):
            return word
    return "device"


def _number(user: str) -> int | None:
    """The number of a user; None when there is none of this name."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
