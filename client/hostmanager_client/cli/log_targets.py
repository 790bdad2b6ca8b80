"""The instances that the words of `logs` mean."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from hostmanager_client.errors import NotFound, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager_client.sync import HostManagerClient

_PATTERN = frozenset("*?[")


def is_pattern(word: str) -> bool:
    """Return whether a word means all ids of a form, as in a shell."""
    return not _PATTERN.isdisjoint(word)


def find_instances(client: HostManagerClient, words: Iterable[str]) -> list[str]:
    """Return the ids that the words name, in their order; asks the daemon only for patterns.

    Raises NotFound for a pattern without a match.
    """
    found: dict[str, None] = {}
    known: list[str] | None = None
    for word in words:
        if not is_pattern(word):
            found[word] = None
            continue
        if known is None:
            known = [child.instance_id for child in client.get_status().child_states]
        matches = [each for each in known if each == word or fnmatchcase(each, word)]
        if not matches:
            raise NotFound(
                f"cannot find {quoted(word)}: no instance id has this form", reason="UNKNOWN_INSTANCE"
            )
        found |= dict.fromkeys(matches)
    return list(found)
