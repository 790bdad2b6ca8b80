"""Process trees of all runs, tracked until no process is left."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Callable

from hostmanager.values import dataclass, field

from hostmanager_server.drivers.contract import Poller, Timer
from hostmanager_server.drivers.process.process_table import Member, ProcessTable, ProcessTree, open_member
from hostmanager_server.drivers.process.records.directory import RecordDirectory
from hostmanager_server.linux import pidfds

_AGAIN = 0.001  # s until a scan that did not settle is repeated
_SURVIVOR_SCANS = 100
_NO_DESCRIPTORS = 0.1  # s until a failed scan is repeated
_HIDDEN_AGAIN_MAX = 1.0  # s; checks for hidden processes become rarer, up to this interval
_HIDDEN_WARN = 10
_SCANS_TO_SETTLE = 10
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _TrackedTree:
    """A tracked process tree, with the signals and callbacks that are due."""

    tree: ProcessTree
    instance_id: str
    gone: Callable[[], None]
    main_ended: bool = False
    scanned: Callable[[], None] | None = None  # the callback after the first scan without the main process
    scans: int = 0
    signum: int = 0  # the signal that the members must receive; 0: none
    signalled: set[Member] = field(default_factory=set)
    watched: dict[Member, int] = field(default_factory=dict)  # members and their pidfds
    hidden_checks: int = 0
    lock_stolen: bool = False  # the process that holds the run's lock does not belong to the run

    def take_callback(self, *, settled: bool) -> Callable[[], None] | None:
        """Return the callback that is due after a scan, once.

        A scan that settled makes the callback due, and so do some scans that did not.
        """
        self.scans += 1
        if self.scanned is None or not (settled or self.scans >= _SCANS_TO_SETTLE):
            return None
        scanned, self.scanned = self.scanned, None
        return scanned


class TreeTracker:
    """Tracks trees from the launch of the main process to the end of the last one.

    One scan of the process table serves all trees that wait for one. The first scan runs in the same round
    of the loop, so that a lost agent is replaced without delay, and all ends of a round are handled together;
    further scans are spaced out.
    """

    def __init__(self, poller: Poller, records: RecordDirectory, table: ProcessTable) -> None:
        self._poller = poller
        self._records = records
        self._table = table
        self._trees: dict[bytes, ProcessTree] = {}
        self._tracked: dict[ProcessTree, _TrackedTree] = {}
        self._waiting: dict[ProcessTree, _TrackedTree] = {}
        self._timer: Timer | None = None
        self._due = 0.0
        self._no_scan_before = 0.0
        self._scanned_at = 0.0
        self._scan_failing = False  # the last scan failed, and a warning was logged

    def track(self, tree: ProcessTree, instance_id: str, gone: Callable[[], None]) -> None:
        """Track a tree; call `gone` once when it is empty, after `main_process_ended`."""
        self._trees[tree.token] = tree
        self._tracked[tree] = _TrackedTree(tree, instance_id, gone)
        if tree.main_pid:
            self._table.main_pids.add(str(tree.main_pid))

    def untrack(self, tree: ProcessTree) -> None:
        """Stop tracking an empty tree, without a callback."""
        self._trees.pop(tree.token, None)
        self._tracked.pop(tree, None)
        self._waiting.pop(tree, None)
        self._table.main_pids.discard(str(tree.main_pid))

    def main_process_ended(self, tree: ProcessTree, scanned: Callable[[], None]) -> None:
        """Scan for survivors of a tree after its main process has ended.

        The scan runs at the end of this round of the loop, or some milliseconds later.

        Calls `scanned` when the survivors are known, and `gone` immediately after when there are none.
        """
        tracked = self._tracked[tree]
        tracked.scanned = scanned
        if tree.main_pid:
            self._table.main_pids.discard(str(tree.main_pid))
            tree.main_pid = 0
        tracked.main_ended = True
        self._waiting[tree] = tracked
        self._request(0.0)

    def refresh(self, tree: ProcessTree) -> None:
        """Scan now, unless the last scan is recent, to know the members of a tree.

        Call before signalling a main process: once the main process has ended, its children have another
        parent, and descent no longer shows the tree that they belong to.
        """
        if tree in self._waiting or self._table.fresh:
            if time.monotonic() - self._scanned_at > self._table.fresh:
                self._scan()
            return
        with contextlib.suppress(OSError):  # the scan after the end tries again
            self._table.scan(self._trees, [tree])

    def signal_members(self, tree: ProcessTree, signum: int) -> None:
        """Send `signum` to every process of a tree except the main one.

        The tracker ignores empty trees.

        With SIGKILL, the tracker repeats the signal until no process is left.
        """
        tracked = self._tracked.get(tree)
        if tracked is None:
            return
        if tracked.signum != signal.SIGKILL:
            tracked.signum = signum
            tracked.signalled.clear()
        self._waiting[tree] = tracked
        self._request(0.0)

    def deliver(self, tree: ProcessTree) -> None:
        """Scan now if a signal to the tree waits for a scan: another signal would take its place."""
        tracked = self._tracked.get(tree)
        if tracked is not None and tracked.signum and tree in self._waiting:
            self._scan()

    def find_survivors(self, trees: list[ProcessTree]) -> list[ProcessTree]:
        """Return those of these trees, not yet tracked, that may have living processes.

        Scans up to 100 times, 1 ms apart, until the result is certain. Raises OSError.
        """
        # Together with the tracked trees: a scan that knows only these would record members of the others
        # as foreign for good.
        by_token = {**self._trees, **{tree.token: tree for tree in trees}}
        for _ in range(_SURVIVOR_SCANS):
            if not trees or (self._table.scan(by_token, trees) and self._scan_cgroups(trees)):
                return [tree for tree in trees if tree.members or (tree.group and tree.group.populated())]
            time.sleep(_AGAIN)
        return trees

    def clear(self) -> None:
        """Stop tracking every tree."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for tracked in self._tracked.values():
            self._unwatch(tracked, list(tracked.watched))
        self._tracked.clear()
        self._waiting.clear()
        self._trees.clear()
        self._table.main_pids.clear()

    def _request(self, delay: float) -> None:
        now = time.monotonic()
        due = max(now + delay, self._no_scan_before)
        if self._timer is not None:
            if due >= self._due:
                return
            self._timer.cancel()
            self._timer = None
        self._due = due
        self._timer = self._poller.call_later(max(0.0, due - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._scan()

    def _scan(self) -> None:
        began = time.monotonic()
        gone: list[_TrackedTree] = []
        again: list[float] = []
        settled = False
        try:
            waiting = list(self._waiting)
            settled = self._table.scan(self._trees, waiting)
            settled &= self._scan_cgroups(waiting)
            if not settled:
                again.append(_AGAIN)
            for tracked in list(self._waiting.values()):
                delay = self._advance(tracked, settled=settled)
                if delay is not None:
                    again.append(delay)
                elif tracked.main_ended and settled and not tracked.tree.members:
                    gone.append(tracked)
        except OSError as error:
            if not self._scan_failing:
                self._scan_failing = True
                _log.warning("cannot scan for survivors of ended agents: %s; trying again", error)
            again.append(_NO_DESCRIPTORS)
        else:
            self._scan_failing = False
        callbacks = [
            callback
            for tracked in self._waiting.values()
            if (callback := tracked.take_callback(settled=settled)) is not None
        ]
        for tracked in gone:
            self._waiting.pop(tracked.tree, None)
            self._tracked.pop(tracked.tree, None)
            self._trees.pop(tracked.tree.token, None)
            self._unwatch(tracked, list(tracked.watched))
        ended = time.monotonic()
        self._scanned_at = ended
        self._no_scan_before = ended + self._table.share * (ended - began)
        if again and self._waiting:
            self._request(min(again))
        for scanned in callbacks:
            scanned()
        for tracked in gone:
            tracked.gone()

    def _scan_cgroups(self, trees: list[ProcessTree]) -> bool:
        settled = True
        for tree in trees:
            settled &= self._table.scan_cgroup(tree)
        return settled

    def _advance(self, tracked: _TrackedTree, *, settled: bool) -> float | None:
        """Send signals to a waiting tree and check its survivors.

        Returns the s until the next scan, or None when another event will cause one.
        """
        again = self._signal(tracked, settled=settled) if tracked.signum else None
        if tracked.main_ended:
            self._watch_survivors(tracked)
            if not tracked.tree.members:
                return self._check_hidden(tracked) if settled else _AGAIN
        elif not tracked.signum:
            self._waiting.pop(tracked.tree, None)
        return again

    def _signal(self, tracked: _TrackedTree, *, settled: bool) -> float | None:
        fresh = [member for member in tracked.tree.members.values() if member not in tracked.signalled]
        group = tracked.tree.group
        if tracked.signum == signal.SIGKILL and group is not None and (fresh or not tracked.tree.members):
            # Reaches children in the middle of a fork, and hidden processes. The main process got the same
            # signal.
            group.kill()
        for member in fresh:
            pidfd = open_member(member)
            if pidfd is not None:
                pidfds.send_signal(pidfd, tracked.signum)
                os.close(pidfd)
                tracked.signalled.add(member)
        if tracked.signum == signal.SIGKILL:
            # the next scan finds children that the members started before they died
            return _AGAIN if fresh else None
        if settled:
            tracked.signum = 0
            tracked.signalled.clear()
        return None

    def _watch_survivors(self, tracked: _TrackedTree) -> None:
        members = tracked.tree.members
        self._unwatch(
            tracked, [member for member in tracked.watched if members.get(str(member.pid)) != member]
        )
        for member in list(members.values()):
            if member not in tracked.watched:
                pidfd = open_member(member)
                if pidfd is None:
                    del members[str(member.pid)]
                    self._request(_AGAIN)
                    continue
                tracked.watched[member] = pidfd
                self._poller.watch(pidfd, functools.partial(self._survivor_ended, tracked, member))

    def _survivor_ended(self, tracked: _TrackedTree, member: Member) -> None:
        if not pidfds.has_ended(tracked.watched[member]):
            return
        self._unwatch(tracked, [member])
        if tracked.tree.members.get(str(member.pid)) == member:
            del tracked.tree.members[str(member.pid)]
        self._table.forget_ended(member)
        if not tracked.watched:
            self._request(0.0)

    def _unwatch(self, tracked: _TrackedTree, members: list[Member]) -> None:
        for member in members:
            pidfd = tracked.watched.pop(member, None)
            if pidfd is not None:
                self._poller.unwatch(pidfd)
                os.close(pidfd)

    def _check_hidden(self, tracked: _TrackedTree) -> float | None:
        """Check for living processes that the last scan missed, by lock and cgroup.

        Returns the s until the next check, or None when there is no such process.
        """
        tree = tracked.tree
        locked = not tracked.lock_stolen and self._records.is_locked(tracked.instance_id)
        if locked:
            marked = self._table.find_marked(tree)
            if marked:
                self._table.add_members(tree, marked)
                return 0.0
        # also for a moment after the end of a process
        populated = tree.group is not None and tree.group.populated()
        if not locked and not populated:
            return None
        tracked.hidden_checks += 1
        if tracked.hidden_checks == _HIDDEN_WARN:
            if locked:
                tracked.lock_stolen = True
                _log.warning(
                    "%s holds the lock of the ended run of '%s', without evidence that the process belongs "
                    "to the run; the daemon leaves the process alone, and the run counts as gone",
                    self._records.describe_holders(tracked.instance_id),
                    tracked.instance_id,
                )
                return _AGAIN if populated else None
            _log.warning(
                "cannot see a living process of '%s': its cgroup '%s' is not empty; "
                "end the process by hand, or run the daemon as root",
                tracked.instance_id,
                tree.group and tree.group.path,
            )
        return min(_HIDDEN_AGAIN_MAX, _AGAIN * 2.0 ** min(tracked.hidden_checks, _HIDDEN_WARN))
