"""The processes of runs, found in /proc by descent, session and environment, and what they use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from hostmanager.values import dataclass

from hostmanager_server.core.usage import MeasuredRun
from hostmanager_server.linux.pidfds import read_file

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")  # s
_PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes
_MARK = b"HOSTMANAGER_INSTANCE_ID="
_LATER = 2.0  # s by which a process may have started after the recorded start of its run


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """A living process. `cpu_time`, in s, includes that of its ended children; `resident` is in bytes."""

    pid: int
    parent: int
    session: int
    started: float  # s since boot
    cpu_time: float
    threads: int
    resident: int


def read_process(pid: int | str) -> ProcessUsage | None:
    """Return what a process uses; None for a process that has ended, or is hidden."""
    try:
        data = read_file(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = data[data.rindex(b")") + 2 :].split()
    threads = int(fields[17])
    if fields[0] in (b"Z", b"X") and threads <= 1:
        return None
    return ProcessUsage(
        int(pid),
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]) * _TICK,
        cpu_time=sum(map(int, fields[11:15])) * _TICK,
        threads=threads,
        resident=int(fields[21]) * _PAGE,
    )


def scan_processes() -> dict[int, ProcessUsage]:
    """Return all processes that this user sees."""
    found = (read_process(name) for name in os.listdir("/proc") if name.isdecimal())
    return {process.pid: process for process in found if process is not None}


def walk_processes(roots: Iterable[int]) -> dict[int, ProcessUsage]:
    """Return the given processes and their descendants, without a look at any other process."""
    found: dict[int, ProcessUsage] = {}
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid in found or (process := read_process(pid)) is None:
            continue
        found[pid] = process
        pending += _children(pid)
    return found


def orphans_here() -> list[int]:
    """Return the children of this process's first thread: agents without the parent that they had."""
    return _children(os.getpid(), first_only=True)


def _children(pid: int, *, first_only: bool = False) -> list[int]:
    try:
        tasks = [str(pid)] if first_only else os.listdir(f"/proc/{pid}/task")
        return [
            int(child) for task in tasks for child in read_file(f"/proc/{pid}/task/{task}/children").split()
        ]
    except OSError:  # ended, or a kernel without CONFIG_PROC_CHILDREN
        return []


def find_trees(
    runs: Iterable[MeasuredRun], processes: Mapping[int, ProcessUsage]
) -> dict[str, list[ProcessUsage]]:
    """Return the processes of each native run, by instance id.

    A process belongs to the run of its nearest ancestor, else to the run whose main process founded its
    session, else, as a child of this process, to the run that its environment names.
    """
    by_parent: dict[int, list[int]] = {}
    for process in processes.values():
        by_parent.setdefault(process.parent, []).append(process.pid)
    main = {run.pid: run for run in runs if not run.container_ids}
    trees: dict[str, list[ProcessUsage]] = {run.instance_id: [] for run in main.values()}
    taken: set[int] = set()

    def take(pid: int, instance_id: str) -> None:
        pending = [pid]
        while pending:
            each = pending.pop()
            if each not in taken and each in processes and (each == pid or each not in main):
                taken.add(each)
                trees[instance_id].append(processes[each])
                pending += by_parent.get(each, ())

    for pid, run in list(main.items()):
        found = processes.get(pid)
        if found is None:
            continue
        if run.started is not None and found.started > run.started + _LATER:
            del main[pid]  # a later process got the number
        else:
            take(pid, run.instance_id)
    for process in processes.values():
        if process.pid not in taken and process.session in main and process.pid != process.session:
            take(process.pid, main[process.session].instance_id)
    for pid in by_parent.get(os.getpid(), ()):
        if pid not in taken and pid not in main:
            name = _marked_instance(pid)
            if name in trees:
                take(pid, name)
    return trees


def _marked_instance(pid: int) -> str:
    try:
        environ = read_file(f"/proc/{pid}/environ")
    except OSError:
        return ""
    mark = next((entry for entry in environ.split(b"\0") if entry.startswith(_MARK)), b"")
    return os.fsdecode(mark.removeprefix(_MARK))


def count_descriptors(pids: Iterable[int]) -> int | None:
    """Return the number of open descriptors of processes; None if one of them may not be read."""
    count = 0
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            # Since Linux 6.2 the size of the folder is the number of its entries; a listing takes longer.
            count += os.stat(folder).st_size or len(os.listdir(folder))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return None
    return count
