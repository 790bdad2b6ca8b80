"""Removal of the head of a file that others append to, by fallocate(2).

The `os` module lacks the modes that this needs.
"""

from __future__ import annotations

import ctypes
import errno
import os

# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_COLLAPSE_RANGE = 0x08

# Errors of a kernel or file system without the mode, or with no support for this file. EINVAL: the block
# size differs from statvfs(3) (bigalloc). EPERM: the file has the append-only attribute.
_UNSUPPORTED = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENODEV, errno.ETXTBSY}
)

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate  # 64-bit offsets on 32-bit glibc too
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


class UnsupportedError(OSError):
    """A file system that cannot free the head of a file by this mode."""


def punch_head(fd: int, start: int, stop: int) -> None:
    """Turn the bytes from `start` to `stop` into a hole, so that offsets stay.

    `stop` is a multiple of the block size; `start` is the end of an existing hole at the head. Afterwards
    `data_start` returns the end of the hole. Raises UnsupportedError when the file system has no holes,
    OSError for other errors; the file is unchanged then.
    """
    _call(fd, _PUNCH_HOLE | _KEEP_SIZE, start, stop - start)


def collapse_head(fd: int, stop: int) -> None:
    """Remove the bytes before `stop`, so that the rest moves to the front.

    `stop` is a multiple of the block size and less than the file's size. Raises the same errors as
    `punch_head`; ext4 and xfs support this, tmpfs, btrfs and overlay do not.
    """
    _call(fd, _COLLAPSE_RANGE, 0, stop)


def _call(fd: int, mode: int, offset: int, length: int) -> None:
    while _fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        kind = UnsupportedError if code in _UNSUPPORTED else OSError
        raise kind(code, os.strerror(code))


def data_start(fd: int) -> int:
    """Return the offset of the first byte outside a hole; the size without data."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.fstat(fd).st_size
        if error.errno == errno.EINVAL:  # a file system without sparse files has no holes
            return 0
        raise
