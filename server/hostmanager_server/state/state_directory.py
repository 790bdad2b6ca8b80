"""The daemon's state directory, locked for its life."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

from hostmanager_server.linux.lock_file import HeldError, take_lock_file
from hostmanager_server.linux.trusted_paths import OVERRIDE, Trust, UntrustedError, Weakness, make_folder

log = logging.getLogger(__name__)

_REMEDY = "choose another with --state-dir"
# What the daemon reads there before anything else. Their modes are tightened where that is needed.
_FILES = ("lock", "journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "site-config.json")


class StateDirError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


class StateDir:
    """The daemon's directory, locked: one daemon per state directory.

    `inherited` is a descriptor by which an earlier life of this process may still hold the lock: so nobody
    else gets it while that life gives way to this one. A directory that was used before and has become
    read-only (a broken disk) is locked all the same: what runs can be watched and stopped without it.
    `trust` says whether others may be able to write it (None: as the user of this process demands).
    """

    def __init__(self, path: Path, inherited: int | None = None, trust: Trust | None = None) -> None:
        self.path = path
        trust = trust or Trust.of_this_process()
        try:
            make_folder(path)
        except OSError as error:
            raise _unusable(path, error) from error
        for warning in check_state_dir(path, trust):
            log.warning("the state directory %s: %s", path, warning)
        if inherited is not None and _is_open_as(inherited, path / "lock"):
            self._fd = inherited
            return
        try:
            self._fd = _lock(path / "lock", any_owner=trust.override)
        except HeldError as error:
            raise StateDirError(
                f"cannot use the state directory {path}: {error} holds it; stop that one first, or {_REMEDY}"
            ) from error
        except OSError as error:
            raise _unusable(path, error) from error

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock."""
        return self._fd

    def close(self) -> None:
        with suppress(OSError):  # read-only
            os.truncate(self._fd, 0)
        os.close(self._fd)


def check_state_dir(path: Path, trust: Trust) -> list[str]:
    """Return warnings about who else may write the directory. Raises StateDirError where that is refused."""
    try:
        warnings = trust.check(path)
        for name in _FILES:
            with suppress(OSError):
                owner = (path / name).lstat().st_uid
                if trust.refuses and owner != trust.uid:
                    weakness = Weakness(str(path / name), f"belongs to user {owner}", "chown root")
                    raise UntrustedError(f"{weakness}, or {OVERRIDE}")
    except OSError as error:
        raise _unusable(path, error) from error
    except UntrustedError as error:
        raise StateDirError(f"cannot use the state directory {path}: {error}, or {_REMEDY}") from error
    return warnings


def _unusable(path: Path, error: OSError) -> StateDirError:
    why = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
    return StateDirError(f"cannot use the state directory {path}: {why}; {_REMEDY}")


def _lock(file: Path, *, any_owner: bool) -> int:
    try:
        return take_lock_file(file, any_owner=any_owner)
    except OSError as error:
        if error.errno != errno.EROFS or not file.exists():
            raise
        descriptor = take_lock_file(file, os.O_RDONLY, any_owner=any_owner)
    log.error(
        "the state directory %s is read-only: what runs is taken back and can be stopped, nothing can be "
        "started, and what is asked for is forgotten when the daemon ends; see to that disk, and make the "
        "directory writable again",
        file.parent,
    )
    return descriptor


def _is_open_as(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except OSError:
        return False
