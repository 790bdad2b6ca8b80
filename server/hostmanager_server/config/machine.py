"""Facts about the machine that a site config depends on: home directories, users, env-files."""

from __future__ import annotations

import pwd
from pathlib import Path

from hostmanager.values import dataclass, field, replace

from hostmanager_server.linux.env_file import EnvFileContent, EnvFileError, read_env_file

EnvFileKey = tuple[str, int | None, bool]  # path, user, optional


@dataclass(slots=True)
class MachineFacts:
    """The facts that one reading asked for, each once. A later reading can ask whether they still hold."""

    _homes: dict[str, str | RuntimeError] = field(default_factory=dict)
    _users: dict[str, int | None] = field(default_factory=dict)
    _env_files: dict[EnvFileKey, EnvFileContent | EnvFileError] = field(default_factory=dict)

    def expand_home(self, text: str) -> Path:
        """Return a path with the home directory in place of `~` or `~user`.

        Raises RuntimeError for a user that this machine does not have.
        """
        if "~" not in text:
            return Path(text)
        if text not in self._homes:
            self._homes[text] = _expand_home(text)
        found = self._homes[text]
        if isinstance(found, RuntimeError):
            raise RuntimeError(str(found))  # the kept error would collect a traceback with each raise
        return Path(found)

    def user_number(self, user: str) -> int | None:
        """Return the number of a user, given by name or number.

        The result is None for an empty text or an unknown user.
        """
        if user not in self._users:
            self._users[user] = _user_number(user)
        return self._users[user]

    def env_file(self, path: str, user: int | None, *, optional: bool) -> EnvFileContent | EnvFileError:
        """Return the digest and the warnings of an env-file, without its variables, or the error."""
        key = path, user, optional
        if key not in self._env_files:
            self._env_files[key] = _read_env_file(key)
        return self._env_files[key]

    def hold(self) -> bool:
        """Return whether all facts are still true; reads each env-file, with the checks of its owner."""
        return (
            self.homes_hold()
            and all(_user_number(user) == number for user, number in self._users.items())
            and all(_same(_read_env_file(key), found) for key, found in self._env_files.items())
        )

    def homes_hold(self) -> bool:
        """Return whether the home directories are still the same."""
        return all(_same(_expand_home(text), found) for text, found in self._homes.items())

    def with_homes_only(self) -> MachineFacts:
        """Return new facts with the same home directories, and all else to be asked again."""
        return MachineFacts(dict(self._homes))


def _expand_home(text: str) -> str | RuntimeError:
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        return error.with_traceback(None)


def _user_number(user: str) -> int | None:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid if user else None
    except KeyError:
        return None


def _read_env_file(key: EnvFileKey) -> EnvFileContent | EnvFileError:
    path, user, optional = key
    try:
        content = read_env_file(path, user, optional=optional)
    except EnvFileError as error:
        return error.with_traceback(None)
    return replace(content, variables={})  # they may be secret, and only the agent needs them


def _same(one: object, other: object) -> bool:
    if isinstance(one, Exception):
        return type(one) is type(other) and str(one) == str(other)
    return one == other
