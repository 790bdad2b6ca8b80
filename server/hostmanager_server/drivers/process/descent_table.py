"""Process trees of runs that descend from this process, found by descent as the kernel keeps it.

A process that loses its parent becomes a child of this process, a child subreaper. So a run without living
main process consists of orphans and their descendants, however they changed session, descriptors and
environment, and no other process of the host needs a reading.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping

from hostmanager_server.drivers.process.markers import MarkerReader, MarkerTrust
from hostmanager_server.drivers.process.membership import hard_limit
from hostmanager_server.drivers.process.process_table import (
    Member,
    ProcessTable,
    ProcessTree,
    as_member,
    entry_of,
)
from hostmanager_server.linux.pidfds import Stat, read_file, read_stat
from hostmanager_server.linux.subreaper import Orphans

_LINKS_OF_ONE_THREAD = 3  # a directory has two links, and this one a further link for each thread
_ROUNDS = 4  # a scan that has not settled by then is left to the next call
_log = logging.getLogger(__name__)

Trees = Mapping[bytes, ProcessTree]


class DescentTable(ProcessTable):
    """Finds the members of wanted trees from their main processes and the orphans.

    An orphan belongs to the run that gave it its mark, session or marker, or of which it was a member before
    it lost its parent. The table leaves an orphan without evidence alone: a guess could end a process of
    another run, or of a helper program.
    """

    share = 0.0
    fresh = 0.0

    def __init__(self, orphans: Orphans) -> None:
        super().__init__()
        self._orphans = orphans
        self._owners: dict[int, ProcessTree | None] = {}  # of living orphans; None: unknown
        # Orphans that have ended, and that a debugger keeps from being reaped; they have no children left.
        self._ended: set[int] = set()

    def scan(self, trees: Trees, wanted: Iterable[ProcessTree] = ()) -> bool:
        """Update the members of the wanted trees; return False when another scan must follow.

        `trees` holds all trees that descend from this process.
        """
        wanted = list(wanted)
        return any(self._scan_once(trees, wanted) for _ in range(_ROUNDS))

    def forget_ended(self, member: Member) -> None:
        """See `ProcessTable.forget_ended`. Scans by descent skip zombies."""

    def _scan_once(self, trees: Trees, wanted: list[ProcessTree]) -> bool:
        """Return whether the scan found every process, and none was new."""
        listed = self._orphans.reap()
        self._ended.intersection_update(listed)
        alive = [pid for pid in listed if pid not in self._ended]
        settled = self._attribute(alive, trees) and self._orphans.complete
        by_tree: dict[ProcessTree, list[int]] = {}
        for pid in alive:
            owner = self._owners.get(pid)
            if owner is not None:
                by_tree.setdefault(owner, []).append(pid)
        for tree in wanted:
            settled &= self._collect(tree, by_tree.get(tree, []))
        return settled

    def _attribute(self, alive: list[int], trees: Trees) -> bool:
        """Find the runs of new orphans; return False when a reading must be repeated."""
        # No other process gets the pid of an orphan before `Orphans.reap` has dropped it.
        self._owners = {pid: self._owners[pid] for pid in alive if pid in self._owners}
        new = [pid for pid in alive if pid not in self._owners]
        if not new:
            return True
        settled = True
        self._markers.next_scan()
        evidence = _Evidence(trees, self._markers)
        for pid in new:
            name, stat = str(pid), read_stat(pid)
            if stat is None or not stat.alive:  # hidden from this user, or ended since
                settled &= stat is None
                self._note_ended(pid, stat)
                continue
            owner, trust = evidence.owner(name, stat)
            if owner is None and trust is MarkerTrust.UNSURE:
                settled = False
            elif owner is not None or trust is MarkerTrust.SURE:
                self._owners[pid] = owner
                if owner is None:
                    _report_unknown(name, stat)
        return settled

    def _note_ended(self, pid: int, stat: Stat | None) -> None:
        if stat is not None and not stat.alive:
            self._ended.add(pid)

    def _collect(self, tree: ProcessTree, orphans: list[int]) -> bool:
        """Update the members of a tree; return False unless all are found, and none is new."""
        settled = True
        known = {name: member for name, member in tree.members.items() if _is_still(member)}
        found = dict(known)
        parents = [member.pid for member in known.values()]
        for pid in orphans:
            if str(pid) not in found:
                stat = read_stat(pid)
                self._note_ended(pid, stat)
                settled = _add(found, pid, stat) is not None and settled
                parents.append(pid)
        if tree.main_pid:
            parents.append(tree.main_pid)
        settled = _add_descendants(found, parents) and settled
        tree.members.clear()
        tree.members.update(found)
        return settled and found.keys() == known.keys()


class _Evidence:
    """The runs of orphans, by what a process inherits and keeps."""

    def __init__(self, trees: Trees, markers: MarkerReader) -> None:
        self._trees = trees
        self._markers = markers
        self._by_limit: dict[int, ProcessTree] = {}
        self._by_session: dict[int, ProcessTree] = {}
        limits = Counter(tree.limit for tree in trees.values())
        for tree in trees.values():
            if tree.limit is not None and limits[tree.limit] == 1:
                self._by_limit[tree.limit] = tree
            if tree.session and (tree.main_pid or _is_unused(tree)):
                self._by_session[tree.session] = tree

    def owner(self, name: str, stat: Stat) -> tuple[ProcessTree | None, MarkerTrust]:
        """Return the run of an orphan, None if unknown, and the trust in that."""
        limit = hard_limit(name)
        tree = None if limit is None else self._by_limit.get(limit)
        tree = tree or self._by_session.get(stat.session) or self._member_of(name, stat)
        if tree is not None:
            return tree, MarkerTrust.SURE
        token, trust = self._markers.read(name, entry_of(name))
        tree = self._trees.get(token)
        if tree is not None and not tree.has_user_of(name):
            return None, MarkerTrust.FOR_NOW  # the agent may change its user id later
        return tree, trust

    def _member_of(self, name: str, stat: Stat) -> ProcessTree | None:
        for tree in self._trees.values():
            member = tree.members.get(name)
            if member is not None and member.start == stat.start and member.entry == entry_of(name):
                return tree
        return None


def limit_of_unmarked(main_pid: int) -> int | None:
    """Return the hard limit by which the processes of a run without mark differ from others, if they do.

    Process 1 of a container also gets orphans that descend from no run, with any limit.
    """
    limit = hard_limit(main_pid)
    return None if os.getpid() == 1 or limit == hard_limit(os.getpid()) else limit


def _is_unused(tree: ProcessTree) -> bool:
    """Return whether no new process has the session number of a tree without main process."""
    stat = read_stat(tree.session)
    if entry_of(str(tree.session)) and (stat is None or stat.alive):
        tree.session = 0
    return bool(tree.session)


def _add_descendants(found: dict[str, Member], parents: list[int]) -> bool:
    """Add the descendants of processes; return False unless all are found."""
    settled = True
    while parents:
        parent = parents.pop()
        children = _children(parent)
        for child in children or ():
            stat = read_stat(child)
            if stat is not None and stat.alive and str(child) not in found:
                if stat.parent == parent and _add(found, child, stat) is not None:
                    parents.append(child)
                else:
                    settled = False
        if children is None or not _is_alive(parent):  # its children have another parent now
            settled = False
    return settled


def _add(found: dict[str, Member], pid: int, stat: Stat | None) -> Member | None:
    name = str(pid)
    member = as_member(name, entry_of(name), stat)
    if member is not None:
        found[name] = member
    return member


def _is_still(member: Member) -> bool:
    name = str(member.pid)
    return as_member(name, member.entry, read_stat(name)) == member


def _is_alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.alive


def _children(pid: int) -> list[int] | None:
    """Return the pids of the children of all threads of a process; None when a thread has ended.

    While a sibling is being reaped, the kernel may leave out a child; the next scan finds it.
    """
    found: list[int] = []
    tasks = f"/proc/{pid}/task"
    try:
        one = os.stat(tasks).st_nlink == _LINKS_OF_ONE_THREAD  # half the cost of a listing
        for task in (pid,) if one else os.listdir(tasks):
            found.extend(map(int, read_file(f"{tasks}/{task}/children").split()))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return found


def _report_unknown(name: str, stat: Stat) -> None:
    """Log a process that the daemon leaves alone, unless a helper program in its session explains it."""
    if os.getpid() == 1 or stat.session == os.getsid(0):
        return
    _log.warning(
        "pid %s lost its parent, and shows not which agent it belongs to; the daemon leaves it alone; "
        "end the process by hand if an agent left it",
        name,
    )
