"""What it costs to track compose services while nothing happens."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.compose_daemon import running_daemon
from benchmarks.compose_peer import NAME, Asking
from benchmarks.compose_services import Services, services
from benchmarks.table import Row


def idle(quick: bool) -> list[Row]:
    """CPU of the daemon, or of whoever asks as OCS does, with all that it starts."""
    seconds, asking_seconds = (10.0, 5.0) if quick else (60.0, 20.0)
    rows = []
    for count in (1, 10, 50):
        with services(count) as these, running_daemon(these) as (daemon, _):
            before = tree_cpu(daemon.pid)
            time.sleep(seconds)
            ours = (tree_cpu(daemon.pid) - before) * 60 / seconds
            peers = {NAME: _asking_cpu(these, asking_seconds)}
        what = f"idle cost of tracking {count} compose service{'s' if count > 1 else ''}"
        rows.append(Row(what, "CPU s/min", ours, peers, reach=0.1))
    return rows


def _asking_cpu(these: Services, seconds: float) -> float:
    """CPU seconds a minute, over whole rounds that take at least so long."""
    with Asking(these) as asking:
        began, before = asking.next().moment, tree_cpu(asking.pid)
        while (now := asking.next().moment) - began < seconds:
            pass
        return (tree_cpu(asking.pid) - before) * 60 / (now - began)


def tree_cpu(pid: int) -> float:
    """Seconds of CPU so far: of the process, of the children that it has waited for, and of those that it
    has now. 0.0 for one that is gone, whose time its parent has."""
    try:
        # After the name, which may hold spaces: utime, stime, cutime and cstime are the fields 14 to 17.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK") + sum(map(tree_cpu, children))
