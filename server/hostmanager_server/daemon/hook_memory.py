"""The failures that hooks were told of, on disk, so that no hook runs again after a restart of the daemon."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostmanager_server.core.failures import Failure

log = logging.getLogger(__name__)
_MOST_BYTES = 16 * 1024**2
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class HookMemory:
    """The file `hooks.json` in the state directory, written whole at every change."""

    def __init__(self, state_dir: Path) -> None:
        """Take the directory; read nothing yet."""
        self._file = state_dir / "hooks.json"
        self._written: dict[str, Failure] = {}
        self._failing = False

    def load(self) -> dict[str, Failure]:
        """Return the failures of the daemon before; none if the file is missing or cannot be used."""
        try:
            fd = os.open(self._file, os.O_RDONLY | _OPEN)
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("cannot read %s: %s; hooks may run again for old failures", self._file, error)
            return {}
        with os.fdopen(fd, "rb") as file:
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise ValueError("it is no file of the daemon's user")
                found = _failures(json.loads(file.read(_MOST_BYTES)))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                log.warning("cannot use %s: %s; hooks may run again for old failures", self._file, error)
                return {}
        self._written = dict(found)
        return found

    def keep(self, failures: Mapping[str, Failure]) -> None:
        """Write the failures, unless the file has them; log a warning if the file cannot be written."""
        if self._written == failures:
            return
        document = {each: _fields(failure) for each, failure in failures.items()}
        fresh = self._file.with_suffix(".new")
        try:
            fresh.unlink(missing_ok=True)
            with open(fresh, "xb", opener=lambda path, flags: os.open(path, flags | _OPEN, 0o600)) as file:
                file.write(json.dumps(document).encode())
            os.replace(fresh, self._file)
        except OSError as error:
            if not self._failing:
                log.warning("cannot write %s: %s; hooks may run again after a restart", self._file, error)
            self._failing = True
            return
        self._failing = False
        self._written = dict(failures)


def _fields(failure: Failure) -> dict[str, Any]:
    return {
        "reason": failure.reason,
        "message": failure.message,
        "since": failure.since,
        "told": failure.told,
        "recovered": failure.recovered,
    }


def _failures(document: Mapping[str, Any]) -> dict[str, Failure]:
    return {
        str(each): Failure(
            str(fields["reason"]), str(fields["message"]), float(fields["since"]), bool(fields["told"]),
            str(fields["recovered"]),
        )
        for each, fields in document.items()
    }  # fmt: skip
