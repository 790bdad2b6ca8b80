"""Removal of the head of a file while others append to it: fallocate(2), which `os` offers without its
modes."""

from __future__ import annotations

import ctypes
import errno
import os

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


class UnsupportedError(OSError):
    """The file system cannot free the head of this file in this way."""


def punch_head(fd: int, start: int, stop: int) -> None:
    """Turn the bytes before `stop`, a multiple of the block size, into a hole; `start` is where one that is
    already there ends. Offsets stay, and `data_start` tells that it was done.

    Raises UnsupportedError when the file system cannot, OSError for everything else; nothing has changed
    then.
    """
    _call(fd, _PUNCH_HOLE | _KEEP_SIZE, start, stop - start)


def collapse_head(fd: int, stop: int) -> None:
    """Remove the bytes before `stop`, a multiple of the block size and less than the file's size: what
    follows moves to the front. Raises as `punch_head`; ext4 and xfs can, tmpfs, btrfs and overlay cannot."""
    _call(fd, _COLLAPSE_RANGE, 0, stop)


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
