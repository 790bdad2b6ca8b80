"""Trust in paths: owners and modes of files that the daemon relies on.

A path is trusted when only root and the daemon's user can change its target: each directory and link on the
way, and the file itself. In a directory with the sticky bit (`/tmp`), entries belong to their owners. A
group with write permission counts as other users, except the owner's private group, which has no other
member. An access control list for others shows in the group bits of the mode; a file with such a list has
no private group.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.linux.accounts import describe_group, describe_user, is_private_group, user_name

OVERRIDE = "--trust-config"
_MOST_LINKS = 40  # the limit of the kernel
_ACL = "system.posix_acl_access"
_ALL_IDS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Trust:
    """The rule for paths that the daemon may use.

    `uid` is the daemon's user; `override` is the option --trust-config.
    """

    uid: int
    override: bool = False

    @classmethod
    def of_this_process(cls, *, override: bool = False) -> Trust:
        """Return the trust rule of a daemon with the user of this process."""
        return cls(os.geteuid(), override)

    @property
    def refuses(self) -> bool:
        """True if the daemon refuses paths that others may change, and not only warns."""
        return self.uid == 0 and not self.override

    def check(self, path: Path) -> list[str]:
        """Return a warning for each part of the path that other users may change.

        The path need not exist.

        Raises UntrustedError for a refused path, OSError where the check is impossible.
        """
        return self.judge(list(weaknesses(path, self.uid)))

    def judge(self, found: list[Weakness]) -> list[str]:
        """Return a warning for each weakness.

        Raises UntrustedError for the first one if the daemon refuses such paths.
        """
        if found and self.refuses:
            raise UntrustedError(f"{found[0]}, or {OVERRIDE}")
        return [f"{each} ({OVERRIDE} allows it)" if self.override else str(each) for each in found]


class UntrustedError(Exception):
    """A path that others may change; the text gives path, user and remedy."""


class NotOursError(OSError):
    """A foreign file in the place of the daemon's own; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Weakness:
    """A directory, link or file that others may change."""

    path: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path!r} {self.why}; {self.remedy} {self.path!r}"


def weaknesses(path: Path, uid: int) -> Iterator[Weakness]:
    """Yield the parts of a path that others than root and the user `uid` may change."""
    owners = _trusted_owners(uid)
    for place, descriptor, status in _walk(path):
        if status.st_uid not in owners:
            yield Weakness(place, f"belongs to {describe_user(status.st_uid)}", f"chown {user_name(uid)}")
        if stat.S_ISLNK(status.st_mode) or (status.st_mode & stat.S_ISVTX and stat.S_ISDIR(status.st_mode)):
            continue
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
        if status.st_mode & stat.S_IWOTH:
            yield Weakness(place, f"may be written by others ({mode})", "chmod o-w")
        if status.st_mode & stat.S_IWGRP and not _is_private(status, descriptor):
            group = describe_group(status.st_gid)
            yield Weakness(place, f"may be written by its {group} ({mode})", "chmod g-w")


def make_private_directory(path: Path) -> None:
    """Create a directory of mode 0700, with parents that only their owner may write.

    Raises OSError.
    """
    missing = []
    for each in (path, *path.parents):
        if each.is_dir():
            break
        missing.append(each)
    for each in reversed(missing):
        each.mkdir(mode=0o700 if each == path else 0o755, exist_ok=True)


def open_own_file(path: Path, flags: int, *, any_owner: bool = False) -> int:
    """Open a file of the daemon's, and create a missing one with mode 0600.

    Checks an existing file before the open. Raises NotOursError for a link, a file with another name (hard
    link), or (unless `any_owner`) a file of a user other than root and this one.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        place = find_own_file(path, any_owner=any_owner)
    try:
        return os.open(f"/proc/self/fd/{place}", flags | os.O_CLOEXEC)
    finally:
        os.close(place)


def find_own_file(path: Path, *, any_owner: bool = False) -> int:
    """Return an O_PATH descriptor of a file of the daemon's; see `open_own_file`."""
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(place)
        why = ""
        if not stat.S_ISREG(status.st_mode):
            why = "is a symbolic link" if stat.S_ISLNK(status.st_mode) else "is no regular file"
        elif status.st_nlink != 1:
            why = "has another name (a hard link)"
        elif not any_owner and status.st_uid not in (0, os.geteuid()):
            why = f"belongs to {describe_user(status.st_uid)}"
        if why:
            raise NotOursError(f"'{path}' {why}; find out its origin, and remove it")
    except BaseException:
        os.close(place)
        raise
    return place


def _walk(path: Path) -> Iterator[tuple[str, int, os.stat_result]]:
    """Yield each directory and link on the way to a path, and the target.

    Each comes with its O_PATH descriptor and state.

    Stops at a missing component, or where this process has no access.
    """
    links = 0
    todo = list(reversed(path.absolute().parts[1:]))
    folder = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        yield "/", folder, os.fstat(folder)
        while todo:
            name = todo.pop()
            try:
                entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                return
            try:
                status = os.fstat(entry)
                here = os.readlink(f"/proc/self/fd/{folder}")
                if name != "..":
                    yield os.path.join(here, name), entry, status
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                    target = Path(os.readlink("", dir_fd=entry))
                    todo.extend(reversed(target.parts[target.is_absolute() :]))
                    if target.is_absolute():
                        folder = _replace(folder, os.open("/", os.O_PATH | os.O_CLOEXEC))
                else:
                    folder, entry = entry, folder
            finally:
                os.close(entry)
    finally:
        os.close(folder)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def _trusted_owners(uid: int) -> set[int]:
    """Return root and the user; in a user namespace, also users without an id there."""
    owners = {0, uid}
    with open("/proc/self/uid_map", encoding="ascii") as file:
        lines = [line.split() for line in file]
    if sum(int(count) for _, _, count in lines) < _ALL_IDS:
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            owners.add(int(file.read()))
    return owners


def _is_private(status: os.stat_result, descriptor: int) -> bool:
    """Return whether the group is private and the file has no access control list."""
    try:
        os.getxattr(f"/proc/self/fd/{descriptor}", _ACL)
    except OSError:
        pass  # no list (the usual case), or a file system without lists
    else:
        return False
    return is_private_group(status.st_uid, status.st_gid)
