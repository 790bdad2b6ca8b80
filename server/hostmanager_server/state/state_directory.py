"""The state directory of the daemon, and the lock that admits one daemon to it."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from hostmanager_server.linux.lock_file import HeldError, take_lock_file
from hostmanager_server.linux.trusted_paths import (
    OVERRIDE,
    Trust,
    UntrustedError,
    Weakness,
    make_private_directory,
    weaknesses,
)

log = logging.getLogger(__name__)

_REMEDY = "choose another with --state-dir"
# The files that the daemon reads before all others, with modes restricted where needed.
_FILES = (
    "lock",
    "journal.sqlite",
    "journal.sqlite-wal",
    "journal.sqlite-shm",
    "site-config.json",
    "hooks.json",
)
# The directories that the daemon creates there: records of runs, output, and events.
_DIRECTORIES = ("runs", "logs", "events")


class StateDirError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


class StateDir:
    """The locked state directory: one daemon per directory.

    The daemon locks even a used directory that has become read-only (a broken disk), since the daemon can
    watch and stop instances without writing there.
    """

    def __init__(self, path: Path, inherited: int | None = None, trust: Trust | None = None) -> None:
        """Create the directory if missing, check its owners, and lock it.

        `inherited` is a descriptor of the lock that this process may have kept over an upgrade, so that no
        other daemon takes the lock in between. `trust` says which other users may have write access (None:
        as the user of this process demands). Raises StateDirError.
        """
        self.path = path
        trust = trust or Trust.of_this_process()
        try:
            make_private_directory(path)
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
                f"cannot use the state directory {path}: {error} holds it; "
                f"stop that daemon first, or {_REMEDY}"
            ) from error
        except OSError as error:
            raise _unusable(path, error) from error

    @property
    def lock(self) -> int:
        """Descriptor that holds the lock."""
        return self._fd

    def close(self) -> None:
        """Empty the lock file and release the lock."""
        with suppress(OSError):  # read-only
            os.truncate(self._fd, 0)
        os.close(self._fd)


def check_state_dir(path: Path, trust: Trust) -> list[str]:
    """Return warnings about other users with write access to the directory or its subdirectories.

    Missing files and subdirectories are fine. Raises StateDirError where the trust rules refuse such access.
    """
    try:
        warnings = trust.check(path)
        for name in _FILES:
            with suppress(OSError):
                owner = (path / name).lstat().st_uid
                if trust.refuses and owner != trust.uid:
                    weakness = Weakness(str(path / name), f"belongs to user {owner}", "chown root")
                    raise UntrustedError(f"{weakness}, or {OVERRIDE}")
        for name in _DIRECTORIES:
            found = trust.judge(_weaknesses_of_directory(path / name, trust.uid))
            warnings += [each for each in found if each not in warnings]  # of the way there: only once
    except OSError as error:
        raise _unusable(path, error) from error
    except UntrustedError as error:
        raise StateDirError(f"cannot use the state directory {path}: {error}, or {_REMEDY}") from error
    return warnings


def _weaknesses_of_directory(path: Path, uid: int) -> list[Weakness]:
    """Return the weaknesses of a subdirectory, which must be no link; none for a missing one."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return []
    if not stat.S_ISDIR(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "no directory"
        return [Weakness(str(path), f"is {kind}", "remove")]
    return list(weaknesses(path, uid))


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
        "the state directory %s is read-only: the daemon recovers and can stop running instances, but cannot "
        "start any, and forgets target changes when the daemon ends; check the disk and make the directory "
        "writable again",
        file.parent,
    )
    return descriptor


def _is_open_as(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except OSError:
        return False
