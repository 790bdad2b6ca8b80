"""The measurement of runs: their processes in /proc, and their cgroups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostmanager_server.core.usage import MeasuredRun, Usage
from hostmanager_server.drivers.process.records.files import file_name
from hostmanager_server.drivers.usage.cgroup_files import CgroupFiles, GroupUsage, read_group
from hostmanager_server.drivers.usage.process_scan import (
    ProcessUsage,
    count_descriptors,
    find_trees,
    orphans_here,
    read_process,
    scan_processes,
    walk_processes,
)

# Up to this number of runs, a walk over their trees is cheaper than a scan of all processes of the host.
_WALKED = 16


class UsageMeter:
    """Measures runs, on any thread; one thread at a time may use an object."""

    def __init__(self) -> None:
        """Read nothing before the first measurement."""
        self._files: CgroupFiles | None = None

    def measure(self, runs: Sequence[MeasuredRun]) -> dict[str, Usage]:
        """Return the use of each run by instance id, without those that have ended; blocks for some ms."""
        if self._files is None:
            self._files = CgroupFiles()
        native = [run for run in runs if not run.container_ids]
        if len(native) <= _WALKED:
            processes = walk_processes([*(run.pid for run in native), *(orphans_here() if native else ())])
        else:
            processes = scan_processes()
        trees = find_trees(native, processes)
        measured: dict[str, Usage] = {}
        for run in runs:
            if run.container_ids:
                usage = self._of_containers(run)
            else:
                usage = self._of_tree(run, trees[run.instance_id])
            if usage is not None:
                measured[run.instance_id] = usage
        return measured

    def _of_tree(self, run: MeasuredRun, tree: list[ProcessUsage]) -> Usage | None:
        if not tree:
            return None
        assert self._files is not None
        group = GroupUsage()
        unified = self._files.directories(tree[0].pid).get("", "")
        folder, _, name = unified.rpartition("/")
        if name.startswith(f"{file_name(run.instance_id)}.") and "/agents-" in folder:  # its own cgroup
            group = read_group({"": unified})
        return _usage(run.number, tree, [group])

    def _of_containers(self, run: MeasuredRun) -> Usage | None:
        assert self._files is not None
        first = run.container_ids[0]
        known = self._files.directories(run.pid)
        # The pid may belong to another machine, or, by now, to another process.
        if not first or not any(first in directory for directory in known.values()):
            return None
        groups = [
            read_group({name: path.replace(first, each) for name, path in known.items() if first in path})
            for each in run.container_ids
        ]
        groups = [group for group in groups if group.pids]
        found = (read_process(pid) for group in groups for pid in dict.fromkeys(group.pids))
        tree = [process for process in found if process is not None]
        return _usage(run.number, tree, groups) if tree else None


def _usage(number: int, tree: list[ProcessUsage], groups: Iterable[GroupUsage]) -> Usage:
    """Return the use of processes; what their cgroups count goes before the sums over the processes."""
    groups = list(groups)
    memory = _sum(group.memory for group in groups)
    cpu_time = _sum(group.cpu_time for group in groups)
    tasks = _sum(group.tasks for group in groups)
    limits = [group.memory_limit for group in groups]
    return Usage(
        number,
        cpu_time=sum(process.cpu_time for process in tree) if cpu_time is None else cpu_time,
        memory=sum(process.resident for process in tree) if memory is None else int(memory),
        processes=len(tree),
        tasks=sum(process.threads for process in tree) if tasks is None else int(tasks),
        descriptors=count_descriptors(process.pid for process in tree),
        memory_limit=sum(filter(None, limits)) if limits and all(limits) else None,
        from_cgroup=memory is not None,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum; None if a value is missing, or all are."""
    known = list(values)
    return None if not known or None in known else sum(value for value in known if value is not None)
