"""The use of CPU, memory, tasks and descriptors by the runs of instances."""

from __future__ import annotations

from hostmanager.values import dataclass

from hostmanager_server.core.model import Instance


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run to measure: a native process with its tree, or the containers of a service.

    `started` is the start of a native run, in s of CLOCK_BOOTTIME, which tells its pid from a later process
    with the same number; None if unknown.
    """

    instance_id: str
    number: int
    pid: int
    started: float | None = None
    container_ids: tuple[str, ...] = ()  # the first one has `pid`


@dataclass(frozen=True, slots=True)
class Usage:
    """The measured use of one run at one moment.

    `cpu_time`, in s, is that of all processes of the run so far. `memory`, in bytes, is the memory that the
    kernel charges to the cgroup of the run, without file pages that the kernel can drop at once; without such
    a cgroup, the resident memory of all processes, in which shared pages count several times.
    """

    number: int
    cpu_time: float
    memory: int
    processes: int
    tasks: int
    descriptors: int | None = None  # None: this process may not read them
    memory_limit: int | None = None
    from_cgroup: bool = False  # `memory` is that of a cgroup


def measured_run(instance: Instance) -> MeasuredRun | None:
    """Return the run of an instance for a measurement; None without a live run of a known pid."""
    observed = instance.observed
    run, service = observed.run, observed.service
    if observed.unobservable:
        return None
    if service is not None:
        if not service.running or not service.pid:
            return None
        others = [each for each in service.container_ids if each != service.container_id]
        number = run.number if run is not None else 0
        return MeasuredRun(
            instance.instance_id, number, service.pid, container_ids=(service.container_id, *others)
        )
    if run is None or not run.pid:
        return None
    started = run.started.mono if run.started is not None else None
    return MeasuredRun(instance.instance_id, run.number, run.pid, started)
