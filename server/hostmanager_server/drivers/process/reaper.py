"""The reaper of orphaned children: helper programs started before an upgrade.

After an upgrade by exec the process keeps its children, but has forgotten the helper programs; no other
process can reap them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Collection

from hostmanager_server.drivers.contract import Poller
from hostmanager_server.linux import pidfds


def reap_orphaned_children(poller: Poller, known: Collection[int]) -> None:
    """Reap every present child without a pid in `known`, each when it ends.

    Call before this process starts new children. Raises OSError.
    """
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) not in known:
            stat = pidfds.read_stat(name)
            if stat is not None and stat.parent == os.getpid():
                pidfd = pidfds.open_pidfd(int(name))
                if pidfd is not None:
                    poller.watch(pidfd, functools.partial(_reap, poller, pidfd))


def _reap(poller: Poller, pidfd: int) -> None:
    with contextlib.suppress(ChildProcessError):
        pidfds.reap(pidfd)
    poller.unwatch(pidfd)
    os.close(pidfd)
