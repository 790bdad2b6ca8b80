"""The process trees of all runs, each tracked by descent or by scans of /proc."""

from __future__ import annotations

import os
from collections.abc import Callable

from hostmanager_server.drivers.contract import Poller
from hostmanager_server.drivers.process.descent_table import DescentTable, limit_of_unmarked
from hostmanager_server.drivers.process.process_table import ProcessTable, ProcessTree
from hostmanager_server.drivers.process.records.directory import RecordDirectory
from hostmanager_server.drivers.process.tree_tracker import TreeTracker
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import read_stat
from hostmanager_server.linux.subreaper import Orphans


class RunTrees:
    """Tracks each tree by the cheapest means that finds all of its processes.

    Runs that this process started descend from it, also after an in-place upgrade. Runs of a dead daemon do
    not, and need scans of /proc; so do all runs where the kernel does not list orphans. The methods are those
    of `TreeTracker`.
    """

    def __init__(self, poller: Poller, records: RecordDirectory, orphans: Orphans) -> None:
        self._poller = poller
        self._orphans = orphans
        self._by_descent = TreeTracker(poller, records, DescentTable(orphans))
        self._by_scan = TreeTracker(poller, records, ProcessTable())

    def reap_orphans(self) -> None:
        """Reap orphans from now on. Call when `track` has seen the main processes of all earlier runs."""
        for descriptor in self._orphans.ended:
            self._poller.watch(descriptor, self._orphan_ended)
        self._orphans.start()

    def reap_later(self, pid: int) -> None:
        """Reap an ended child as soon as this is possible."""
        self._orphans.reap_later(pid)

    def follow_descent(self, tree: ProcessTree, *, adopted: bool) -> None:
        """Note whether a tree with a living main process descends from this process, before `track`.

        A predecessor that was no subreaper has let orphans of an `adopted` run escape.
        """
        if adopted:
            stat = read_stat(tree.main_pid)
            is_child = stat is not None and stat.parent == os.getpid()
            tree.descends = self._orphans.known and self._orphans.inherited and is_child
        else:
            tree.descends = self._orphans.known

    def track(self, tree: ProcessTree, instance_id: str, gone: Callable[[], None]) -> None:
        """See `TreeTracker.track`."""
        if tree.main_pid:
            self._orphans.spared.add(tree.main_pid)
            tree.limit = tree.mark if tree.mark is not None else limit_of_unmarked(tree.main_pid)
        else:
            tree.limit = tree.mark
        self._tracker(tree).track(tree, instance_id, gone)

    def untrack(self, tree: ProcessTree) -> None:
        """See `TreeTracker.untrack`."""
        self._orphans.spared.discard(tree.main_pid)
        self._tracker(tree).untrack(tree)

    def main_process_ended(self, tree: ProcessTree, scanned: Callable[[], None]) -> None:
        """See `TreeTracker.main_process_ended`. Call after the main process was reaped, or `reap_later`."""
        self._orphans.spared.discard(tree.main_pid)
        self._tracker(tree).main_process_ended(tree, scanned)

    def refresh(self, tree: ProcessTree) -> None:
        """See `TreeTracker.refresh`."""
        self._tracker(tree).refresh(tree)

    def signal_members(self, tree: ProcessTree, signum: int) -> None:
        """See `TreeTracker.signal_members`."""
        self._tracker(tree).signal_members(tree, signum)

    def send_signal(self, tree: ProcessTree, main: int, signum: int, *, whole_tree: bool) -> str:
        """Send an operator's signal to the main process behind the pidfd `main`, or to all of a tree.

        Returns why the signal could not be sent, or the empty string.
        """
        tracker = self._tracker(tree)
        if whole_tree:
            tracker.deliver(tree)  # another signal that is still on its way
            tracker.refresh(tree)
        if not pidfds.send_signal(main, signum):
            if pidfds.has_ended(main):
                return "its main process has ended"
            return f"its main process (pid {tree.main_pid}) is another user's, and the daemon is not root"
        if whole_tree:
            tracker.signal_members(tree, signum)
        return ""

    def find_survivors(self, trees: list[ProcessTree]) -> list[ProcessTree]:
        """See `TreeTracker.find_survivors`. Call after `track` of the runs with living main processes."""
        descended: list[ProcessTree] = []
        if self._orphans.inherited:
            for tree in trees:
                tree.limit = tree.mark
            descended = self._by_descent.find_survivors(trees)
            for tree in descended:
                tree.descends = True
        return descended + self._by_scan.find_survivors([tree for tree in trees if not tree.descends])

    def clear(self) -> None:
        """See `TreeTracker.clear`."""
        self._by_descent.clear()
        self._by_scan.clear()

    def close(self) -> None:
        """Stop reaping orphans."""
        for descriptor in self._orphans.ended:
            self._poller.unwatch(descriptor)
        self._orphans.close()

    def _tracker(self, tree: ProcessTree) -> TreeTracker:
        return self._by_descent if tree.descends else self._by_scan

    def _orphan_ended(self) -> None:
        self._orphans.clear()
        self._orphans.reap()
