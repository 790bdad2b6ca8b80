"""Selection of instances in requests: ids, selectors, and failing instances only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostmanager.values import dataclass, replace

from hostmanager_server.core.event_selection import EventSelection
from hostmanager_server.core.health import is_failing
from hostmanager_server.core.model import Instance
from hostmanager_server.core.plan import no_instance
from hostmanager_server.core.selection import ParsedSelector, SelectorError, parse_selector, select
from hostmanager_server.rpc.errors import FieldViolation, invalid_entries, unknown_instances
from hostmanager_server.rpc.validation import over_limit
from hostmanager_server.state.store import Snapshot, Tracked

MAX_SELECTORS = 32  # in one request: each is compared with every instance


@dataclass(frozen=True, slots=True)
class InstanceFilter:
    """The instances that a stream concerns; without ids and selectors, all of them."""

    ids: frozenset[str] = frozenset()
    selectors: tuple[ParsedSelector, ...] = ()
    failing: bool = False

    def __bool__(self) -> bool:
        return bool(self.ids or self.selectors or self.failing)

    @property
    def changes(self) -> bool:
        """True if an instance may begin to pass, or no longer pass, while its id stays."""
        return bool(self.selectors) or self.failing

    def passes(self, instance: Instance) -> bool:
        """Return whether the filter lets an instance pass."""
        if self.failing and not is_failing(instance):
            return False
        if not self.ids and not self.selectors:
            return True
        if instance.instance_id in self.ids:
            return True
        return any(selector.matches(instance.spec) for selector in self.selectors)

    def may_have(self, instance_id: str) -> bool:
        """Return whether a reader may know an instance that is gone."""
        return self.changes or not self.ids or instance_id in self.ids

    def passing(self, snapshot: Snapshot) -> Sequence[str]:
        """Return the sorted ids of the instances that pass."""
        if not self:
            return snapshot.ids
        if not self.changes:
            return sorted(i for i in self.ids if i in snapshot.instances)
        return [i for i in snapshot.ids if self.passes(snapshot.instances[i].instance)]


def parse_selectors(
    texts: Sequence[str], known: Mapping[str, Tracked]
) -> tuple[frozenset[str], tuple[ParsedSelector, ...]]:
    """Return the ids among the texts, and the selectors. Raises RpcError for invalid ones."""
    check_selectors(len(texts))
    ids: set[str] = set()
    selectors: list[ParsedSelector] = []
    bad: list[FieldViolation] = []
    for index, text in enumerate(texts):
        if text in known:
            ids.add(text)
            continue
        try:
            selectors.append(parse_selector(text))
        except SelectorError as error:
            bad.append(FieldViolation(f"selectors[{index}]", str(error)))
    if bad:
        raise invalid_entries(bad)
    return frozenset(ids), tuple(selectors)


def select_events(
    selection: EventSelection, wanted: InstanceFilter, known: Mapping[str, Tracked]
) -> EventSelection:
    """Return the selection of events with the instances of a filter.

    Classes and labels are those of the present instances; patterns of ids also match former ones.
    """
    ids = wanted.ids
    if wanted.selectors:
        ids = ids.union(i for i, tracked in known.items() if wanted.passes(tracked.instance))
    return replace(selection, instance_ids=ids, selectors=wanted.selectors)


def check_selectors(count: int) -> None:
    """Refuse too many selectors."""
    if count > MAX_SELECTORS:
        remedy = "write fewer patterns, or name ids"
        raise over_limit("max-selectors-per-request", MAX_SELECTORS, "selectors", f"{count} entries", remedy)


def select_ids(
    snapshot: Snapshot,
    ids: Sequence[str],
    selectors: Sequence[str] = (),
    *,
    failing: bool = False,
    strict: bool = True,
) -> Sequence[str]:
    """Return the sorted ids of the named instances, or of all when none are named.

    Raises RpcError for unknown ids and invalid selectors, and if `strict` for a selector without an instance.
    """
    chosen: set[str] = set(ids)
    unknown = [(index, each) for index, each in enumerate(ids) if each not in snapshot.instances]
    bad = [FieldViolation(f"instance_ids[{index}]", no_instance(each)) for index, each in unknown]
    if unknown:
        text = no_instance(unknown[0][1], instances_of(snapshot))
        bad[0] = FieldViolation(bad[0].field, text)
    if selectors:
        check_selectors(len(selectors))
        specs = {i: tracked.instance.spec for i, tracked in snapshot.instances.items()}
        invalid = False
        for index, text in enumerate(selectors):
            try:
                chosen.update(select(text, specs))
            except SelectorError as error:
                if strict or not error.unknown:
                    invalid = invalid or not error.unknown
                    bad.append(FieldViolation(f"selectors[{index}]", str(error)))
        if invalid:
            raise invalid_entries(bad)
    if bad:
        raise unknown_instances(bad)
    found = sorted(chosen) if ids or selectors else snapshot.ids
    return [i for i in found if is_failing(snapshot.instances[i].instance)] if failing else found


def instances_of(snapshot: Snapshot) -> Iterator[Instance]:
    """Yield the instances of a snapshot."""
    return (tracked.instance for tracked in snapshot.instances.values())
