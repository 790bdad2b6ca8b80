"""The site config file on disk: its text, once it is one that may be read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hostmanager_server.config.document import DocumentError
from hostmanager_server.linux.trusted_paths import Trust, UntrustedError

MAX_BYTES = 8 * 1024 * 1024


def read_text(path: Path, trust: Trust) -> tuple[str, list[str], bool]:
    """The text of a regular file of at most MAX_BYTES of UTF-8, what is wrong with who may write it (see
    docs/reference/daemon.md), and whether everybody may read it. Raises DocumentError, also when `trust`
    refuses the file."""
    try:
        writers = [f"others may choose what the daemon runs: {each}" for each in trust.check(path)]
        with open(path, "rb", opener=_open) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DocumentError("is not a regular file; a site config must be one")
            data = file.read(MAX_BYTES + 1)
    except UntrustedError as error:
        raise DocumentError(f"cannot be used, as others may choose what the daemon runs: {error}") from error
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
