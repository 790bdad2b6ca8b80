"""The copy of the last site config in force, for starts with a bad file."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.linux.trusted_paths import Trust

log = logging.getLogger(__name__)


class LastGood:
    """The copy, in the state directory, of the last site config that a daemon used."""

    def __init__(self, state_dir: Path) -> None:
        self._copy = state_dir / "site-config.json"

    def keep(self, config: LoadedConfig) -> None:
        """Write a copy of a config that is in force; wait for the disk.

        If the copy cannot be written, the method only logs a warning: a daemon needs the copy only after a
        crash while the file has errors.
        """
        data = json.dumps({"file": config.file, "text": config.text}).encode()
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
        try:
            with self._copy.open("rb") as file:
                return not os.fstat(file.fileno()).st_mode & 0o077 and file.read() == data
        except FileNotFoundError:
            return False

    def load(
        self, file: Path, *, host: str | None, working_dir: Path | None, trust: Trust | None = None
    ) -> LoadedConfig:
        """Return the config in the file, or the copy if the file has errors.

        A config from the copy is `stale`, and has the errors of the file as its problems.
        """
        config = load_site_config(file, host=host, working_dir=working_dir, trust=trust)
        if config.ok or (text := self._text_of(config.file)) is None:
            return config
        kept = load_site_config(file, host=host, working_dir=working_dir, text=text)
        if not kept.ok:
            return config
        return replace(kept, problems=config.problems, stale=True)

    def _text_of(self, file: str) -> str | None:
        try:
            fields = json.loads(self._copy.read_bytes())
            return str(fields["text"]) if fields["file"] == file else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("cannot use the copy of the site config in %s: %s", self._copy, error)
            return None


def _for_its_user_only(path: str, flags: int) -> int:
    # The config may hold passwords (in `env`), and other users may enter the folder.
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
