"""Instances for the runs that an earlier daemon left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hostmanager_server.core.actions import Kind, Note
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, Phase, Run, State
from hostmanager_server.core.spec import InstanceSpec, Management, Target
from hostmanager_server.drivers.base import Adopted


def taken_back(
    runs: Iterable[Adopted], specs: Mapping[str, InstanceSpec], moment: Instant
) -> tuple[dict[str, Instance], list[Note]]:
    """Each run as an instance that is up. One that the config does not list is retired."""
    found: dict[str, Instance] = {}
    notes: list[Note] = []
    for adopted in runs:
        instance_id = adopted.run.instance_id
        run = Run(
            adopted.run.number, Phase.READY, adopted.process, adopted.pid, adopted.started, adopted=True
        )
        spec = specs.get(instance_id)
        if spec is None:
            spec = InstanceSpec(instance_id, "unknown", process=adopted.process)
            management, target = Management.RETIRED, Target.DOWN
        else:
            management, target = spec.management, spec.initial_target
        found[instance_id] = Instance(
            spec, management, target, run=run, state=State.UP, runs=run.number,
            reason="Running", message="taken back from an earlier daemon",
        )  # fmt: skip
        message = f"pid {adopted.pid} was started by an earlier daemon and is taken back"
        notes.append(Note(Kind.DAEMON, "Adopted", message, moment, instance_id))
    return found, notes
