"""The site config file on disk: its text, once it is one that may be read."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from hostmanager_server.config.document import DocumentError

MAX_BYTES = 8 * 1024 * 1024


def read_text(path: Path) -> tuple[str, list[str], bool]:
    """The text of a regular file of at most MAX_BYTES of UTF-8, what is wrong with who may write it (see
    docs/site-config.md), and whether everybody may read it. Raises DocumentError."""
    try:
        with open(path, "rb", opener=_open) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DocumentError("is not a regular file; a site config must be one")
            data = file.read(MAX_BYTES + 1)
        writers = _writers(info, path)
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise DocumentError(f"cannot be read: {error}") from error
    if len(data) > MAX_BYTES:
        raise DocumentError(f"has more than {MAX_BYTES // 2**20} MiB; a site config must be smaller")
    return _decode(data), writers, bool(info.st_mode & stat.S_IROTH)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in the file's place must not hold up the daemon


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = error.object[: error.start].decode()  # without the byte order mark
        line, column = good.count("\n") + 1, len(good) - (good.rfind("\n") + 1) + 1
        raise DocumentError("is not UTF-8 text here; save it in that encoding", line, column) from error


def _writers(info: os.stat_result, path: Path) -> list[str]:
    """Who beside its owner may change the file, which says what programs the daemon runs."""
    found = []
    if info.st_mode & stat.S_IWOTH:
        found.append("everybody on this machine may write it, and so choose what the daemon runs; chmod o-w")
    elif info.st_mode & stat.S_IWGRP and not _is_private_group(info.st_uid, info.st_gid):
        found.append("its group may write it, and so choose what the daemon runs; chmod g-w")
    if info.st_uid not in (0, os.geteuid()):
        found.append(f"it belongs to {_user(info.st_uid)}, who may so choose what the daemon runs")
    folder = path.resolve().parent
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        found.append(f"everybody on this machine may replace it, since they may write {folder}")
    return found


def _is_private_group(uid: int, gid: int) -> bool:
    """Whether the group is the user's own and has no other member, as distributions set users up today, along
    with a umask that lets the group write."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return repr(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return f"user {uid}"
