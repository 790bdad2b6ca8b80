"""The unit file on disk, read and written without following links."""

from __future__ import annotations

import difflib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.core.secret_names import MASK, has_password, is_secret_name

MODE = 0o644


class UnitFileError(Exception):
    """A file that `install` must not overwrite.

    The text gives the reason and a remedy.
    """


@dataclass(frozen=True, slots=True)
class PresentUnit:
    """A unit file on disk.

    `sound` means that this user owns the file and no other user may write it.
    """

    text: str
    sound: bool


def inspect(file: Path) -> PresentUnit | None:
    """Return the present unit file, or None if there is none.

    Raises UnitFileError if another kind of file is in the place, and OSError if the file cannot be read.
    """
    try:
        info = file.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(info.st_mode):
        target = os.readlink(file)
        if target == os.devnull:
            advice = f"run `systemctl unmask {file.stem}` first"
            raise UnitFileError(f"cannot write {file}: the unit is masked; {advice}")
        raise UnitFileError(f"cannot write {file}: the path is a link to {target}; remove the link first")
    if not stat.S_ISREG(info.st_mode):
        raise UnitFileError(f"cannot write {file}: the path is no file; remove it first")
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, encoding="utf-8", errors="replace") as opened:
        info = os.fstat(descriptor)
        sound = info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) == MODE and info.st_nlink == 1
        return PresentUnit(opened.read(), sound)


def write(file: Path, text: str) -> None:
    """Write the text atomically, in place of any present file.

    Raises OSError if writing fails.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp chooses a name that no other user can foresee, so that no other user can put a link there.
    descriptor, new = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fchmod(descriptor, MODE)
            os.fsync(descriptor)
        os.replace(new, file)
    except BaseException:
        os.unlink(new)
        raise


def differences(file: Path, before: str, after: str) -> str:
    """Return the changes of a new text as a diff, with secrets masked."""
    old, new = (list(map(_masked, text.splitlines(keepends=True))) for text in (before, after))
    return "".join(_lines(old, new, str(file)))


def _lines(old: list[str], new: list[str], name: str) -> Iterable[str]:
    return difflib.unified_diff(old, new, name, "the new one")


def _masked(line: str) -> str:
    key, equals, value = line.partition("=")
    name = value.lstrip('"').partition("=")[0]
    if key.strip() == "Environment" and equals and (is_secret_name(name) or has_password(value)):
        return f"{key}={name}={MASK}\n"
    return line
