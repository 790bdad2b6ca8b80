"""Facts about the machine that a site config depends on: home directories, users, env-files."""

from __future__ import annotations

import fnmatch
import os
import pwd
from collections.abc import Iterable, Mapping
from glob import glob
from pathlib import Path

from hostmanager.values import dataclass, field, replace

from hostmanager_server.config.document import DocumentError
from hostmanager_server.config.file import read_text
from hostmanager_server.linux.env_file import EnvFileContent, EnvFileError, read_env_file
from hostmanager_server.linux.trusted_paths import Trust

EnvFileKey = tuple[str, int | None, bool]  # path, user, optional


@dataclass(frozen=True, slots=True)
class SiteFileText:
    """The text of an included file, warnings about its writers, and whether all users may read it."""

    text: str = field(repr=False)
    writers: tuple[str, ...] = ()
    public: bool = False


@dataclass(slots=True)
class MachineFacts:
    """The facts that one reading asked for, each once. A later reading can ask whether they still hold."""

    _homes: dict[str, str | RuntimeError] = field(default_factory=dict)
    _users: dict[str, int | None] = field(default_factory=dict)
    _env_files: dict[EnvFileKey, EnvFileContent | EnvFileError] = field(default_factory=dict)
    _site_files: dict[tuple[str, Trust], SiteFileText | DocumentError] = field(default_factory=dict)
    _patterns: dict[str, list[str]] = field(default_factory=dict)
    _copies: Mapping[str, str] | None = None

    @classmethod
    def with_copies(cls, included: Iterable[tuple[str, str]]) -> MachineFacts:
        """Return facts in which the included files have these texts, by path."""
        return cls(_copies=dict(included))

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

    def site_file(self, path: str, trust: Trust) -> SiteFileText | DocumentError:
        """Return the content of an included file, or why the daemon cannot use it."""
        if self._copies is not None:
            copy = self._copies.get(path)
            return DocumentError("the copy lacks the file") if copy is None else SiteFileText(copy)
        key = path, trust
        if key not in self._site_files:
            self._site_files[key] = _read_site_file(path, trust)
        return self._site_files[key]

    def site_files(self, pattern: str) -> list[str]:
        """Return the files of a pattern, sorted."""
        if self._copies is not None:
            return sorted(path for path in self._copies if _matches(path, pattern))
        if pattern not in self._patterns:
            self._patterns[pattern] = _find(pattern)
        return self._patterns[pattern]

    def hold(self) -> bool:
        """Return whether all facts are still true; reads each env-file, with the checks of its owner."""
        return (
            self.homes_hold()
            and all(_user_number(user) == number for user, number in self._users.items())
            and all(_same(_read_env_file(key), found) for key, found in self._env_files.items())
            and all(_find(pattern) == found for pattern, found in self._patterns.items())
            and all(_same(_read_site_file(*key), found) for key, found in self._site_files.items())
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


def _read_site_file(path: str, trust: Trust) -> SiteFileText | DocumentError:
    try:
        text, writers, public = read_text(Path(path), trust)
    except DocumentError as error:
        return error.with_traceback(None)
    return SiteFileText(text, tuple(writers), public)


def _find(pattern: str) -> list[str]:
    return sorted(path for path in glob(pattern) if not os.path.isdir(path))


def _matches(path: str, pattern: str) -> bool:
    """Return whether glob(3) would find the path: no pattern matches a slash or a leading dot."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(
        fnmatch.fnmatchcase(part, want) and (not part.startswith(".") or want.startswith("."))
        for part, want in zip(parts, wanted, strict=True)
    )


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
