"""Safe opening of directories: component by component, through no link that other users may set."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from hostmanager_server.linux.accounts import describe_user, is_private_group

_MOST_LINKS = 40  # the limit of the kernel
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LONGEST_TARGET = 200  # characters of a link target in an error text


class RefusedFileError(OSError):
    """A file that the daemon must not use; the text names the file, the reason and the remedy."""

    def __init__(self, path: str, why: str) -> None:
        """Keep the path and the reason, and join both in the text."""
        self.path = path
        self.why = why
        super().__init__(f"'{path}': {why}")


def open_directory(path: str, *, make: bool = False, public: bool = False) -> int:
    """Open the directory at `path`; with `make`, create missing directories.

    Their mode is 0755, that of the last one 0750 unless `public`, less the umask.

    The walk follows a link only if an operator set the link: root or the daemon's user owns the link and
    every directory before, and other users may write to none of these directories, except sticky ones such
    as /tmp. Otherwise an agent with write access to a directory could lead the daemon to any other directory.

    Return a close-on-exec descriptor for the caller to close. Raises RefusedFileError for a link that other
    users may have set, OSError for all other failures.
    """
    plain = _open_plain(path)
    if plain is not None:
        return plain
    walk = _Walk("/" if path.startswith("/") else ".", path)
    try:
        remaining = _components(path)
        while remaining:
            name = remaining.pop()
            try:
                walk.enter(name)
            except FileNotFoundError:
                if not make or name == "..":
                    raise
                walk.make(name, 0o755 if remaining or public else 0o750)
                walk.enter(name)
            except NotADirectoryError:
                target = walk.follow(name)
                if target.startswith("/"):
                    walk.restart()
                remaining += _components(target)
    except RefusedFileError:
        walk.close()
        raise
    except OSError as error:
        walk.close()
        raise OSError(error.errno, error.strerror, path) from error
    return walk.descriptor


def link_target(descriptor: int) -> str:
    """Return the quoted, shortened target of the symbolic link open as `descriptor`, for error texts."""
    target = os.readlink("", dir_fd=descriptor)
    return repr(target if len(target) <= _LONGEST_TARGET else f"{target[:_LONGEST_TARGET]}…")


def _open_plain(path: str) -> int | None:
    """Open the directory in one step if no component is a link, else return None.

    Without links the kernel gives the open directory the same path. None also stands for a missing
    directory.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.readlink(f"/proc/self/fd/{descriptor}") == path:
            return descriptor
    except OSError:  # no /proc
        pass
    os.close(descriptor)
    return None


class _Walk:
    """A walk from directory to directory; `descriptor` is the present directory."""

    def __init__(self, start: str, path: str) -> None:
        self.descriptor = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._path = path
        self._trail: list[os.stat_result] = []  # of all earlier directories
        self._links = 0

    def enter(self, name: str) -> None:
        """Enter a subdirectory. Raises NotADirectoryError for a link, too."""
        flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:  # O_PATH comes second, as O_PATH triggers no automount
            below = os.open(name, os.O_RDONLY | flags, dir_fd=self.descriptor)
        except PermissionError:  # the mode allows searching but not listing
            below = os.open(name, os.O_PATH | flags, dir_fd=self.descriptor)
        self._trail.append(os.fstat(self.descriptor))
        self._move(below)

    def make(self, name: str, mode: int) -> None:
        """Create a subdirectory, unless another process just did."""
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self.descriptor)

    def follow(self, name: str) -> str:
        """Return the target of a link that an operator set. Raises RefusedFileError for other links."""
        link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            status = os.fstat(link)
            if not stat.S_ISLNK(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._links += 1
            if self._links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if why := _distrust(status, [*self._trail, os.fstat(self.descriptor)]):
                raise RefusedFileError(
                    self._path,
                    f"its component {name!r} is a link to {link_target(link)}, and {why}; "
                    "name the directory itself in 'log-dir'",
                )
            return os.readlink("", dir_fd=link)
        finally:
            os.close(link)

    def restart(self) -> None:
        """Return to the root directory."""
        self._move(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._trail.clear()

    def close(self) -> None:
        """Close the present directory."""
        os.close(self.descriptor)

    def _move(self, descriptor: int) -> None:
        os.close(self.descriptor)
        self.descriptor = descriptor


def _components(path: str) -> list[str]:
    """Return the components of a path, last component first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _distrust(link: os.stat_result, trail: Sequence[os.stat_result]) -> str:
    """Return why another user may have set this link below these directories; empty if none can."""
    trusted = (0, os.geteuid())
    if link.st_uid not in trusted:
        return f"the link belongs to {describe_user(link.st_uid)}"
    for directory in trail:
        if directory.st_uid not in trusted:
            return f"the link is below a directory of {describe_user(directory.st_uid)}"
        if _is_open_to_others(directory) and not directory.st_mode & stat.S_ISVTX:
            return "the link is below a directory that other users may write"
    if link.st_nlink > 1 and _is_open_to_others(trail[-1]):  # a hard link to a link elsewhere
        return "the link has more than one name"
    return ""


def _is_open_to_others(directory: os.stat_result) -> bool:
    writers = directory.st_mode & _OTHERS_WRITE
    if writers != stat.S_IWGRP:
        return bool(writers)
    return not is_private_group(directory.st_uid, directory.st_gid)
