"""Selectors: words that name instances by a pattern of ids, by agent class or by label."""

from __future__ import annotations

from hostmanager_client.errors import InvalidRequest, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIXES = ("class:", "label:", "id:")
_PATTERN = frozenset("*?[")


class Selector(str):
    """A text that the daemon compares with its instances: `thermo*`, `class:Camera`, `@rack=3`.

    Use a Selector wherever a method takes an instance id. The reference page of the command line has the
    forms. A plain `str` always means the instance with exactly this id.
    """

    __slots__ = ()


def id_or_selector(word: str) -> str:
    """Return a word of the command line: a Selector if the word has the form of one, else an id.

    The daemon takes a Selector that is the id of an instance for this id.
    """
    special = word.startswith(("@", *PREFIXES)) or not _PATTERN.isdisjoint(word)
    return Selector(word) if special else word


def split(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids and the selectors; raise InvalidRequest for a single text."""
    if isinstance(names, str):  # otherwise each letter would be an id
        raise InvalidRequest(f"cannot use {quoted(names)} as a list of instance ids: write [{quoted(names)}]")
    ids: list[str] = []
    selectors: list[str] = []
    for name in names:
        (selectors if isinstance(name, Selector) else ids).append(name)
    return tuple(ids), tuple(map(str, selectors))
