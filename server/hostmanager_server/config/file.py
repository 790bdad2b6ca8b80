"""The site config file on disk: checks of the file, and its text."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hostmanager_server.config.document import DocumentError
from hostmanager_server.linux.trusted_paths import Trust, UntrustedError

MAX_BYTES = 8 * 1024 * 1024


def read_text(path: Path, trust: Trust) -> tuple[str, list[str], bool]:
    """Return the text, warnings about writers, and whether all users may read it.

    docs/reference/daemon.md describes the warnings. Raises DocumentError for a file that is not regular, has
    more than MAX_BYTES, is not UTF-8, or that `trust` refuses.
    """
    try:
        writers = [f"others may choose what the daemon runs: {each}" for each in trust.check(path)]
        with open(path, "rb", opener=_open) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DocumentError("the path is not a regular file; a site config must be a regular file")
            data = file.read(MAX_BYTES + 1)
    except UntrustedError as error:
        raise DocumentError(
            f"cannot use the file, as others may choose what the daemon runs: {error}"
        ) from error
    except OSError as error:
        raise DocumentError(f"cannot read the file: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise DocumentError(f"cannot read the file: {error}") from error
    if len(data) > MAX_BYTES:
        raise DocumentError(f"the file has more than {MAX_BYTES // 2**20} MiB; a site config must be smaller")
    return _decode(data), writers, bool(info.st_mode & stat.S_IROTH)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in place of the file must not block the daemon


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = error.object[: error.start].decode()  # the codec has removed the byte order mark
        line, column = good.count("\n") + 1, len(good) - (good.rfind("\n") + 1) + 1
        raise DocumentError(
            "the file is not UTF-8 text here; save the file as UTF-8", line, column
        ) from error
