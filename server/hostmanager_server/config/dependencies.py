"""Checks of `depends-on`: unknown and circular dependencies."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Mapping, Sequence

from hostmanager_server.config.instance_keys import Dependency
from hostmanager_server.config.node_reader import Reader, shown, suggest
from hostmanager_server.core.manager_status import Problem


def check_dependencies(
    reader: Reader, wanted: Mapping[str, Sequence[Dependency]], present: Collection[str]
) -> dict[str, Problem]:
    """Check the dependencies of all instances of a host; return the first error of each instance.

    `wanted` maps the managed instances to their dependencies; `present` has all ids of the host.
    """
    bad: dict[str, Problem] = {}
    for instance_id, dependencies in wanted.items():
        with reader.entry() as mistakes:
            for dependency in dependencies:
                why = _why_not(instance_id, dependency.instance_id, wanted, present)
                if why:
                    reader.error(dependency.node, f"instance {shown(instance_id)} cannot depend on {why}")
        if mistakes:
            bad[instance_id] = mistakes[0]
    good = {name: each for name, each in wanted.items() if name not in bad}
    while cycle := _find_cycle(good):
        with reader.entry() as mistakes:
            _report(reader, cycle, wanted)
        bad |= dict.fromkeys(cycle, mistakes[0])
        good = {name: each for name, each in good.items() if name not in bad}
    return bad


def _why_not(
    instance_id: str, other: str, wanted: Mapping[str, Sequence[Dependency]], present: Collection[str]
) -> str:
    if other == instance_id:
        return "itself"
    if other in wanted:
        return ""
    if other in present:
        return f"{shown(other)}, which is not managed"
    hint = suggest(other, wanted)
    return f"{shown(other)}, which this host does not have" + (f" ({hint})" if hint else "")


def _find_cycle(wanted: Mapping[str, Sequence[Dependency]]) -> list[str]:
    """Return instances that each depend on the next, the last one being the first; empty without a circle."""
    graph = {name: [d.instance_id for d in ds if d.instance_id in wanted] for name, ds in wanted.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _report(reader: Reader, cycle: Sequence[str], wanted: Mapping[str, Sequence[Dependency]]) -> None:
    place = next(d.node for d in wanted[cycle[0]] if d.instance_id == cycle[1])
    reader.error(place, f"instances wait for each other in a circle: {' -> '.join(cycle)}")
