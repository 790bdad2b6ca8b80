"""Instances that the words of a command line name: ids and selectors."""

from __future__ import annotations

from hostmanager_client.selectors import Selector, id_or_selector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hostmanager_client.plain_calls import PlainCalls

NONE_FAILING = "no instance is failing"


def names_of(words: Iterable[str]) -> tuple[str, ...]:
    """Return the words as names for the client: ids, and Selectors for words of their form."""
    return tuple(map(id_or_selector, words))


def resolve_ids(client: PlainCalls, words: Sequence[str], *, failing: bool = False) -> tuple[str, ...]:
    """Return the ids of the instances that the words name now, each once, sorted within a selector.

    Without words: all instances. `failing`: only the failing ones. Raises NotFound if a word names nothing.
    A command that streams several instances needs ids; calls that take names resolve them by themselves.
    """
    names = names_of(words)
    if not any(isinstance(name, Selector) for name in names) and words and not failing:
        return tuple(dict.fromkeys(names))  # the call itself finds unknown ids
    groups = [[name] for name in names] if any(isinstance(name, Selector) for name in names) else [names]
    found: dict[str, None] = {}
    for group in groups:  # in the order of the words
        listing = client.list_instances(group, failing=failing)
        found.update((instance.instance_id, None) for instance in listing.instances)
    return tuple(found)
