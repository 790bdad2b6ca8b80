"""Checks of `depends-on`: unknown and circular dependencies."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Mapping, Sequence

from hostmanager_server.config.instance_keys import Dependency
from hostmanager_server.config.node_reader import Reader, shown, suggest


def check_dependencies(
    reader: Reader, wanted: Mapping[str, Sequence[Dependency]], present: Collection[str]
) -> None:
    """Check the dependencies of all instances of a host.

    `wanted` maps the managed instances to their dependencies; `present` has all ids of the host.
    """
    good = True
    for instance_id, dependencies in wanted.items():
        for dependency in dependencies:
            why = _why_not(instance_id, dependency.instance_id, wanted, present)
            if why:
                good = False
                reader.error(dependency.node, f"instance {shown(instance_id)} cannot depend on {why}")
    if good:
        _check_cycle(reader, wanted)


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


def _check_cycle(reader: Reader, wanted: Mapping[str, Sequence[Dependency]]) -> None:
    graph = {instance_id: [d.instance_id for d in ds] for instance_id, ds in wanted.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle = list(
            reversed(error.args[1])
        )  # each instance depends on the next; the last is the first again
        place = next(d.node for d in wanted[cycle[0]] if d.instance_id == cycle[1])
        reader.error(place, f"instances wait for each other in a circle: {' -> '.join(cycle)}")
