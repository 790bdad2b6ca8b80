"""The keys `env-file` and `env-inherit`: where an agent's environment comes from."""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hostmanager_server.config.document import ListNode, Node, Scalar
from hostmanager_server.config.reader import Reader, shown
from hostmanager_server.core.spec import EnvFile
from hostmanager_server.linux.env_file import EnvFileContent, EnvFileError, read_env_file
from hostmanager_server.linux.sd_notify import OF_ONE_PROCESS

ALL = "all"
MAX_FILES = 20
_PATTERN = re.compile(r"[A-Za-z_*?\[][A-Za-z0-9_*?\[\]!-]*")


@dataclass(frozen=True, slots=True)
class EnvFilePath:
    """An absolute path in `env-file`, and its place."""

    path: str
    node: Node
    optional: bool = False


def read_env_inherit(reader: Reader, node: Node, what: str) -> tuple[str, ...] | None:
    """Read names and patterns of variables, or `all`, which is every name."""
    if isinstance(node, Scalar):
        text = reader.text(node, what)
        if text is None:
            return None
        return ("*",) if text == ALL else tuple(_patterns(reader, [node], what))
    return tuple(_patterns(reader, reader.sequence(node, what), what))


def _patterns(reader: Reader, nodes: Iterable[Node], what: str) -> Iterable[str]:
    for node in nodes:
        text = reader.text(node, f"an entry of {what}")
        if text is None:
            continue
        if text == ALL:
            reader.error(node, f"{ALL!r} in {what} stands alone: write 'env-inherit: {ALL}'")
        elif "=" in text:
            name = text.partition("=")[0]
            reader.error(
                node, f"{what} takes names without values; put {shown(name)} and its value into 'env'"
            )
        elif not _PATTERN.fullmatch(text):
            reader.error(
                node, f"{shown(text)} in {what} is no name or pattern of variables, such as TZ or MY_*"
            )
        else:
            if text in OF_ONE_PROCESS:
                reader.warn(node, f"{shown(text)} in {what} is ignored: no agent is ever given that")
            yield text


def read_env_files(reader: Reader, node: Node, what: str, folder: Path) -> tuple[EnvFilePath, ...]:
    """Read one path or a list of them. A relative path is relative to `folder`, that of the site config; `-`
    before a path: the file may be missing."""
    nodes = node.items if isinstance(node, ListNode) else (node,)
    found = []
    for child in nodes:
        text = reader.text(child, what)
        if text is None:
            continue
        name = text.removeprefix("-")
        if not name:
            reader.error(child, f"{what} must be a path, not an empty text")
            continue
        try:
            path = str(folder / Path(name).expanduser())
            found.append(EnvFilePath(path, child, optional=name != text))
        except RuntimeError as error:  # there is no such user
            reader.error(child, f"{what} is {shown(text)}, which cannot be found: {error}")
    if len(found) > MAX_FILES:
        reader.error(node, f"{what} names more than {MAX_FILES} files")
    return tuple(found)


def user_number(user: str) -> int | None:
    """Return the number of a user that was given by name or number; None: none was, or there is none."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid if user else None
    except KeyError:
        return None


class EnvFiles:
    """The env-files that a site config names, each read once for each user that it is for."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, int | None, bool], EnvFileContent | EnvFileError] = {}

    def look(self, reader: Reader, file: EnvFilePath, user: int | None, what: str) -> EnvFile:
        """Return the file with its digest. A file that cannot be used is a warning, as the agent alone cannot
        start, and a later start reads it again."""
        key = (file.path, user, file.optional)
        if key not in self._read:
            try:
                self._read[key] = read_env_file(file.path, user, optional=file.optional)
            except EnvFileError as error:
                self._read[key] = error
        found = self._read[key]
        if isinstance(found, EnvFileError):
            reader.warn(file.node, f"{what} cannot start: {found}")
            return EnvFile(file.path, optional=file.optional)
        for warning in found.warnings:
            reader.warn(file.node, warning)
        return EnvFile(file.path, found.digest, file.optional)
