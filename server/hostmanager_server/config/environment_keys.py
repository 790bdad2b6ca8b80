"""The keys `env-file` and `env-inherit`: sources of an agent's environment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.config.document import ListNode, Node, Scalar
from hostmanager_server.config.node_reader import Reader, shown
from hostmanager_server.core.spec import EnvFile
from hostmanager_server.linux.env_file import EnvFileError
from hostmanager_server.linux.sd_notify import PRIVATE_VARIABLES

ALL = "all"
MAX_FILES = 20
_PATTERN = re.compile(r"[A-Za-z_*?\[][A-Za-z0-9_*?\[\]!-]*")


@dataclass(frozen=True, slots=True)
class EnvFilePath:
    """An absolute path in `env-file`, and its place in the site config."""

    path: str
    node: Node
    optional: bool = False


def read_env_inherit(reader: Reader, node: Node, label: str) -> tuple[str, ...] | None:
    """Return names and patterns of variables; `all` gives the pattern `*`."""
    if isinstance(node, Scalar):
        text = reader.text(node, label)
        if text is None:
            return None
        return ("*",) if text == ALL else tuple(_patterns(reader, [node], label))
    return tuple(_patterns(reader, reader.sequence(node, label), label))


def _patterns(reader: Reader, nodes: Iterable[Node], label: str) -> Iterable[str]:
    for node in nodes:
        text = reader.text(node, f"an entry of {label}")
        if text is None:
            continue
        if text == ALL:
            reader.error(node, f"{ALL!r} in {label} stands alone: write 'env-inherit: {ALL}'")
        elif "=" in text:
            name = text.partition("=")[0]
            reader.error(
                node, f"{label} takes names without values; put {shown(name)} and its value into 'env'"
            )
        elif not _PATTERN.fullmatch(text):
            reader.error(
                node,
                f"{shown(text)} in {label} is no name or pattern of variables; write for example TZ or MY_*",
            )
        else:
            if text in PRIVATE_VARIABLES:
                reader.warn(node, f"{shown(text)} in {label} is ignored: no agent gets this variable")
            yield text


def read_env_files(reader: Reader, node: Node, label: str, folder: Path) -> tuple[EnvFilePath, ...]:
    """Return the paths of one text or a list of texts.

    A relative path is relative to `folder`, that of the file with the key. A file with `-` before its path
    may be missing.
    """
    nodes = node.items if isinstance(node, ListNode) else (node,)
    found = []
    for child in nodes:
        text = reader.text(child, label)
        if text is None:
            continue
        name = text.removeprefix("-")
        if not name:
            reader.error(child, f"{label} must be a path, not an empty text")
            continue
        try:
            path = str(folder / reader.machine.expand_home(name))
            found.append(EnvFilePath(path, child, optional=name != text))
        except RuntimeError as error:  # `~user` names no user of this machine
            reader.error(child, f"{label} is {shown(text)}, which cannot be found: {error}")
    if len(found) > MAX_FILES:
        reader.error(node, f"{label} names more than {MAX_FILES} files")
    return tuple(found)


def read_env_file_digest(reader: Reader, file: EnvFilePath, user: int | None, label: str) -> EnvFile:
    """Return the file with its digest.

    An unusable file is only a warning: no other agent needs the file, and a later start of the agent reads it
    again.
    """
    found = reader.machine.env_file(file.path, user, optional=file.optional)
    if isinstance(found, EnvFileError):
        reader.warn(file.node, f"{label} cannot start: {found}")
        return EnvFile(file.path, optional=file.optional)
    for warning in found.warnings:
        reader.warn(file.node, warning)
    return EnvFile(file.path, found.digest, file.optional)
