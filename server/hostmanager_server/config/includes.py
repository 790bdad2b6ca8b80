"""Included files: the key `include`, and the document that all files of a site config make together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hostmanager.values import dataclass, field, replace

from hostmanager_server.config.document import (
    LINES_PER_FILE,
    MAX_NODES,
    DocumentError,
    ListNode,
    MapNode,
    Node,
    NodeKind,
    Scalar,
    compose,
)
from hostmanager_server.config.file import MAX_BYTES
from hostmanager_server.config.node_reader import Reader, is_null, shown
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.linux.trusted_paths import Trust

KEY = "include"
MAX_FILES = 200
# Mappings that several files may have: their entries are joined.
_JOINED = ("hosts", "agent-classes")
_INSTANCES = "agent-instances"

_Pair = tuple[Node, Node]


@dataclass(frozen=True, slots=True)
class IncludedFile:
    """An included file with its text; `document` is None for a file without usable content."""

    path: str
    text: str = field(repr=False)
    public: bool  # all users may read the file
    document: MapNode | None


def read_included(reader: Reader, document: Node, trust: Trust) -> list[IncludedFile]:
    """Return all files that a site config includes, directly or not, in their order."""
    if not isinstance(document, MapNode):
        return []
    found = _Includes(reader, trust)
    found.follow(document, (os.path.abspath(reader.file),))
    return found.files


def joined(document: Node, included: Sequence[IncludedFile]) -> Node:
    """Return the document with the content of the included files.

    The instances of a host, the hosts and the classes of all files stand in one list or mapping. Any other
    key may stand in one file only; a second one is a duplicate, which the reader reports.
    """
    others = [file.document for file in included if file.document is not None]
    if not others or not isinstance(document, MapNode):
        return document
    collected: dict[str, list[MapNode]] = {}
    pairs: list[_Pair] = []
    for number, each in enumerate((document, *others)):
        seen: set[str] = set()
        for key, value in each.pairs:
            name = key.text if isinstance(key, Scalar) else ""
            if name == KEY and number > 0:
                continue
            if name in _JOINED and name not in seen and (isinstance(value, MapNode) or is_null(value)):
                seen.add(name)
                if name not in collected:
                    collected[name] = []
                    pairs.append((key, value))
                collected[name] += [value] if isinstance(value, MapNode) else []
            else:
                pairs.append((key, value))
    return replace(document, pairs=tuple((key, _join(key, value, collected)) for key, value in pairs))


def _join(key: Node, value: Node, collected: dict[str, list[MapNode]]) -> Node:
    """Return the joined mapping in the place of the first; any other value as it is."""
    name = key.text if isinstance(key, Scalar) else ""
    maps = collected.get(name, [])
    if not maps or not (value is maps[0] or is_null(value)):
        return value
    pairs = tuple(pair for each in maps for pair in _flat(each))
    whole = replace(maps[0], pairs=pairs)
    return _with_joined_hosts(whole, maps) if name == "hosts" else whole


def _with_joined_hosts(whole: MapNode, maps: Sequence[MapNode]) -> MapNode:
    """Join the entries of a host that stands in several files; a repetition in one file stays."""
    parts: dict[str, list[_Pair]] = {}
    rest: list[_Pair] = []
    for each in maps:
        seen: set[str] = set()
        for key, value in _flat(each):
            if (
                isinstance(key, Scalar)
                and key.text not in seen
                and (isinstance(value, MapNode) or is_null(value))
            ):
                seen.add(key.text)
                parts.setdefault(key.text, []).append((key, value))
            else:
                rest.append((key, value))
    hosts = [(found[0][0], _one_host([value for _, value in found])) for found in parts.values()]
    return replace(whole, pairs=(*hosts, *rest))


def _one_host(values: Sequence[Node]) -> Node:
    maps = [value for value in values if isinstance(value, MapNode)]
    if len(maps) < 2:
        return maps[0] if maps else values[0]
    lists: list[_Pair] = []
    pairs: list[_Pair] = []
    for each in map(_flat, maps):
        mine = [pair for pair in each if isinstance(pair[0], Scalar) and pair[0].text == _INSTANCES]
        if len(mine) == 1 and isinstance(mine[0][1], ListNode):
            lists += mine
            pairs += [pair for pair in each if pair is not mine[0]]
        else:
            pairs += [pair for pair in each if pair not in mine or not is_null(pair[1])]
    if lists:
        key, first = lists[0]
        assert isinstance(first, ListNode)
        items = tuple(item for _, each in lists if isinstance(each, ListNode) for item in each.items)
        pairs.append((key, replace(first, items=items)))
    return replace(maps[0], pairs=tuple(pairs))


def _flat(node: MapNode) -> list[_Pair]:
    """Return the pairs of a mapping, those of its merge keys included: joined pairs must not hide them."""
    pairs = [pair for pair in node.pairs if not _merges(pair)]
    names = {key.text for key, _ in pairs if isinstance(key, Scalar)}
    for key, value in filter(_merges, node.pairs):
        for source in value.items if isinstance(value, ListNode) else (value,):
            if not isinstance(source, MapNode):
                pairs.append((key, source))  # a mistake, which the reader reports
                continue
            new = [(k, v) for k, v in _flat(source) if not (isinstance(k, Scalar) and k.text in names)]
            names |= {k.text for k, _ in new if isinstance(k, Scalar)}
            pairs += new
    return pairs


def _merges(pair: _Pair) -> bool:
    return isinstance(pair[0], Scalar) and pair[0].kind is NodeKind.MERGE


class _Includes:
    """The files of one site config, in the order of a walk from the first file."""

    def __init__(self, reader: Reader, trust: Trust) -> None:
        self.files: list[IncludedFile] = []
        self._reader = reader
        self._trust = trust
        self._first: dict[str, Node] = {}  # by path, where the file is included
        self._bytes = 0
        self._nodes = 0

    def follow(self, document: MapNode, chain: tuple[str, ...]) -> None:
        """Read the files that the last file of the chain includes, and their includes."""
        for key, value in document.pairs:
            if isinstance(key, Scalar) and key.text == KEY:
                for node, path in self._paths(value, Path(chain[-1]).parent):
                    self._include(node, path, chain)

    def _paths(self, value: Node, folder: Path) -> Iterator[tuple[Node, str]]:
        reader = self._reader
        for node in value.items if isinstance(value, ListNode) else (value,):
            text = reader.text(node, f"{KEY!r}" if node is value else f"an entry of {KEY!r}")
            if text is None:
                continue
            try:
                path = os.path.abspath(folder / reader.machine.expand_home(text)) if text else ""
            except RuntimeError as error:  # `~user` names no user of this machine
                reader.error(node, f"cannot include {shown(text)}: {error}")
                continue
            if not path:
                reader.error(node, f"{KEY!r} must name files, not an empty text")
            elif any(character in text for character in "*?["):
                yield from ((node, found) for found in reader.machine.site_files(path))
            else:
                yield node, path

    def _include(self, node: Node, path: str, chain: tuple[str, ...]) -> None:
        reader = self._reader
        if path in chain:
            circle = " -> ".join([*chain[chain.index(path) :], path])
            reader.error(node, f"cannot include {path!r}: the files include each other: {circle}")
        elif path in self._first:
            reader.error(
                node, f"{path!r} is included twice (first in {reader.where(self._first[path], node)})"
            )
        elif len(self.files) >= MAX_FILES:
            reader.error(node, f"cannot include {path!r}: the site config has more than {MAX_FILES} files")
        else:
            self._first[path] = node
            self._read(node, path, chain)

    def _read(self, node: Node, path: str, chain: tuple[str, ...]) -> None:
        reader = self._reader
        found = reader.machine.site_file(path, self._trust)
        if isinstance(found, DocumentError):
            if found.line:
                reader.note(Problem(Severity.ERROR, found.message, path, found.line, found.column))
            else:
                reader.error(node, f"cannot include {path!r}: {found.message}")
            return
        for warning in found.writers:
            reader.note(Problem(Severity.WARNING, warning, path))
        self._bytes += len(found.text)
        if self._bytes > MAX_BYTES:
            most = MAX_BYTES // 2**20
            reader.error(node, f"cannot include {path!r}: all included files have more than {most} MiB")
            return
        document = self._document(path, found.text)
        self.files.append(IncludedFile(path, found.text, found.public, document))
        if document is not None:
            self.follow(document, (*chain, path))

    def _document(self, path: str, text: str) -> MapNode | None:
        reader = self._reader
        first_line = reader.add_file(path) * LINES_PER_FILE
        try:
            document = compose(text, first_line=first_line)
        except DocumentError as error:
            reader.note(Problem(Severity.ERROR, error.message, path, error.line, error.column))
            return None
        if document is None:
            reader.note(Problem(Severity.WARNING, "the included file is empty", path))
            return None
        self._nodes += document.size
        if self._nodes > MAX_NODES:
            reader.error(document, f"all included files have more than {MAX_NODES} values up to here")
            return None
        if not isinstance(document, MapNode):
            reader.error(document, "an included file must be a mapping with 'hosts' or 'agent-classes'")
            return None
        return document
