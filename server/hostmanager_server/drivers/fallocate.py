"""Removal of the head of a file while others append to it: fallocate(2), which `os` offers without its
modes."""

from __future__ import annotations

import ctypes
import errno
import os
from enum import Enum

# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_COLLAPSE_RANGE = 0x08

# What a kernel or a file system answers that has no such mode, or not for this file. EINVAL: a block size
# that is not what statvfs says (bigalloc). EPERM: a file with the append-only attribute.
_UNSUPPORTED = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENODEV, errno.ETXTBSY}
)

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate  # 64-bit offsets on 32-bit glibc too
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


class HeadRemoval(Enum):
    """The ways to free the head of a file, best first."""

    COLLAPSE = "collapse"  # what follows moves to the front: ext4, xfs
    PUNCH = "punch"  # the head turns into a hole, offsets stay: tmpfs, btrfs, overlay
    NONE = "none"

    @property
    def next_best(self) -> HeadRemoval:
        return HeadRemoval.PUNCH if self is HeadRemoval.COLLAPSE else HeadRemoval.NONE


class UnsupportedError(OSError):
    """The file system cannot free the head of this file in this way."""


def remove_head(fd: int, how: HeadRemoval, start: int, stop: int) -> None:
    """Free the bytes before `stop`, a multiple of the block size and less than the file's size; `start` is
    where a hole that is already there ends.

    Raises UnsupportedError when the file system cannot, OSError for everything else; nothing has changed
    then.
    """
    if how is HeadRemoval.COLLAPSE:
        _call(fd, _COLLAPSE_RANGE, 0, stop)
    elif how is HeadRemoval.PUNCH:
        _call(fd, _PUNCH_HOLE | _KEEP_SIZE, start, stop - start)
    else:
        raise UnsupportedError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def _call(fd: int, mode: int, offset: int, length: int) -> None:
    while _fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        kind = UnsupportedError if code in _UNSUPPORTED else OSError
        raise kind(code, os.strerror(code))


def data_start(fd: int) -> int:
    """Offset of the first byte that is not in a hole; the file's size when there is none."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.fstat(fd).st_size
        if error.errno == errno.EINVAL:  # no sparse files there: no holes either
            return 0
        raise
