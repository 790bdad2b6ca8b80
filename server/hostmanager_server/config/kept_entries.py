"""Entries of `agent-instances` that a reading keeps, and the text of a file without them.

An entry is known by its lines in the file. Where a later text has the same lines, a marker takes their place:
one line for the entry, then empty lines, so that all else keeps its place. The parser of YAML is in the same
state before and after an entry of a block sequence, so the rest of the text means the same as before,
provided that the parser finds each marker as an entry of that list. The caller has to check this.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from hostmanager.values import dataclass, replace

from hostmanager_server.config.document import KeptScalar, MapNode, Node
from hostmanager_server.config.instances import HostInstances, KeptInstance
from hostmanager_server.config.read_entry import ParseContext
from hostmanager_server.core.digests import blake2b
from hostmanager_server.core.manager_status import Problem

# Line breaks of YAML other than the newline: texts with them are read as a whole.
_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class ShortText:
    """A text with markers in place of kept entries, and the entries by marker."""

    text: str
    kept: Mapping[str, KeptInstance]

    @property
    def measures(self) -> Mapping[str, tuple[int, int]]:
        """Return size and height of the entry of each marker, as `document.compose` takes them."""
        return {marker: (entry.size, entry.height) for marker, entry in self.kept.items()}

    def all_found(self, nodes: Sequence[Node]) -> bool:
        """Return whether the nodes of the list have each marker once."""
        found = [node.text for node in nodes if isinstance(node, KeptScalar)]
        return len(found) == len(self.kept) == len(set(found))


@dataclass(frozen=True, slots=True)
class KeptEntries:
    """The entries of one list by the digest of their lines; valid for an equal context only."""

    context: ParseContext
    public: bool  # all users may read the file, which warns of secrets
    indent: int  # blanks before the dash of each entry
    by_digest: Mapping[bytes, KeptInstance]

    def shorten(self, text: str) -> ShortText | None:
        """Return the text with markers in place of entries; None if the text has no such entry."""
        if _OTHER_BREAKS.search(text):
            return None
        marker = f"kept-{os.urandom(8).hex()}-"
        parts: list[str] = []
        kept: dict[str, KeptInstance] = {}
        copied = 0  # characters of the text
        starts = _starts(text, self.indent)
        for start, end in pairwise(starts):
            lines = text[start:end]
            entry = self.by_digest.get(_digest(lines))
            if entry is None:
                continue
            name = f"{marker}{len(kept)}"
            kept[name] = entry
            parts += text[copied:start], " " * self.indent, "- ", name, "\n" * lines.count("\n")
            copied = end
        if not kept or marker in text:
            return None
        return ShortText("".join((*parts, text[copied:])), kept)


def entries_to_keep(
    text: str,
    nodes: Sequence[Node],
    instances: HostInstances,
    context: ParseContext,
    problems: Sequence[Problem],
    short: ShortText | None,
    *,
    public: bool,
) -> KeptEntries | None:
    """Return the entries of a file that was read without errors; `problems` has all its warnings.

    An entry with a warning is not kept, nor one with an anchor or an alias, nor the last one, whose end only
    the parser knows.
    """
    if _OTHER_BREAKS.search(text):
        return None
    lines = text.split("\n")
    indent = next((found for node in nodes if (found := _indent(node, lines)) is not None), None)
    if indent is None:
        return None
    noted = {problem.line for problem in problems}
    dash = " " * indent + "- "
    by_digest: dict[bytes, KeptInstance] = {}
    for position, (node, following) in enumerate(pairwise(nodes)):
        if _indent(node, lines) != indent or _indent(following, lines) != indent:
            continue
        first, end = node.line - 1, following.line - 1
        if not noted.isdisjoint(range(first + 1, end + 1)):
            continue
        if any(line.startswith(dash) for line in lines[first + 1 : end]):  # within a text, or no entry
            continue
        entry = "".join(f"{line}\n" for line in lines[first:end])
        if "&" in entry or "*" in entry:
            continue
        kept = _keep(position, node, instances, short)
        if kept is not None:
            by_digest[_digest(entry)] = kept
    return KeptEntries(context, public, indent, by_digest)


def _keep(
    position: int, node: Node, instances: HostInstances, short: ShortText | None
) -> KeptInstance | None:
    if isinstance(node, KeptScalar):
        assert short is not None
        _, spec = instances.entries[position]
        kept = short.kept[node.text]
        return kept if kept.spec is spec else replace(kept, spec=spec)
    return instances.to_keep(position, node)


def _indent(node: Node, lines: Sequence[str]) -> int | None:
    """Return the blanks before the dash of an entry that begins in the line of its dash, else None."""
    if not isinstance(node, MapNode | KeptScalar):
        return None
    before = lines[node.line - 1][: node.column - 1]
    blanks = before.rstrip(" ")
    return len(blanks) - 1 if before != blanks and blanks.strip(" ") == "-" else None


def _starts(text: str, indent: int) -> list[int]:
    return [match.start() for match in re.finditer(f"^ {{{indent}}}- ", text, re.MULTILINE)]


def _digest(lines: str) -> bytes:
    return blake2b(lines.encode(), digest_size=20).digest()
