"""The copy of the last site config in force, for starts with a bad file."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

from hostmanager.values import replace

from hostmanager_server.config.file import MAX_BYTES
from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.linux.trusted_paths import Trust, find_own_file

log = logging.getLogger(__name__)

# JSON takes up to six bytes for a byte of the config and of the included files; the rest is for the paths.
_MOST_BYTES = 12 * MAX_BYTES + 2**20


class LastGood:
    """The copy, in the state directory, of the last site config that a daemon used."""

    def __init__(self, state_dir: Path) -> None:
        self._copy = state_dir / "site-config.json"
        self._reported = ""

    def keep(self, config: LoadedConfig) -> None:
        """Write a copy of a config that is in force; wait for the disk.

        If the copy cannot be written, the method only logs a warning: a daemon needs the copy only after a
        crash while the file has errors. The write replaces a foreign file or link in the place of the copy.
        """
        fields = {"file": config.file, "text": config.text, "included": config.included}
        data = json.dumps(fields).encode()
        fresh = self._copy.with_suffix(".new")
        try:
            if self._is_kept(data):
                return
            fresh.unlink(missing_ok=True)  # left by a daemon that died while writing, with any mode
            with open(fresh, "xb", opener=_for_its_user_only) as file:
                file.write(data)
            os.replace(fresh, self._copy)
        except OSError as error:
            log.warning("cannot keep a copy of the site config in %s: %s", self._copy, error.strerror)

    def _is_kept(self, data: bytes) -> bool:
        return self._read() == (data, 0)

    def load(
        self, file: Path, *, host: str | None, working_dir: Path | None, trust: Trust | None = None
    ) -> LoadedConfig:
        """Return the config in the file, or the copy if the file has errors; see `in_place_of`."""
        config = load_site_config(file, host=host, working_dir=working_dir, trust=trust)
        return self.in_place_of(config, file, host=host, working_dir=working_dir)

    def in_place_of(
        self, config: LoadedConfig, file: Path, *, host: str | None, working_dir: Path | None
    ) -> LoadedConfig:
        """Return the copy instead of a config with errors, or the config if there is no usable copy.

        A config from the copy is `stale`, and has the errors of the file as its problems.
        """
        if config.ok or (texts := self._texts_of(config.file)) is None:
            return config
        text, included = texts
        kept = load_site_config(file, host=host, working_dir=working_dir, text=text, included=included)
        if not kept.ok:
            return config
        return replace(kept, problems=config.problems, stale=True)

    def _texts_of(self, file: str) -> tuple[str, list[tuple[str, str]]] | None:
        """Return the text of the file, and paths and texts of the included files."""
        kept = self._read()
        if kept is None:
            return None
        try:
            fields = json.loads(kept[0])
            if fields["file"] != file:
                return None
            # A copy of an older daemon has no included files.
            included = [(str(path), str(text)) for path, text in fields.get("included", ())]
            return str(fields["text"]), included
        except (ValueError, KeyError, TypeError) as error:
            self._report(error)
            return None

    def _read(self) -> tuple[bytes, int] | None:
        """Return the copy and the mode bits of other users; None if there is no usable copy.

        Never opens a link, a pipe or a file of another user: a read of a pipe would block the daemon.
        """
        try:
            place = find_own_file(self._copy)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(error)
            return None
        try:
            with open(f"/proc/self/fd/{place}", "rb") as file:
                data = file.read(_MOST_BYTES + 1)
            others = stat.S_IMODE(os.fstat(place).st_mode) & 0o077
        except OSError as error:
            self._report(error)
            return None
        finally:
            os.close(place)
        if len(data) > _MOST_BYTES:
            self._report(ValueError(f"the copy has more than {_MOST_BYTES} bytes"))
            return None
        return data, others

    def _report(self, error: Exception) -> None:
        """Log why the copy cannot be used, once for each reason."""
        if str(error) != self._reported:
            self._reported = str(error)
            log.warning("cannot use the copy of the site config in %s: %s", self._copy, error)


def _for_its_user_only(path: str, flags: int) -> int:
    # The config may hold passwords (in `env`), and other users may enter the folder.
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
