"""Process trees of runs, found in `/proc` by marker, session, descent or cgroup."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping

from hostmanager.values import dataclass, field

from hostmanager_server.drivers.process.cgroup import Cgroup
from hostmanager_server.drivers.process.markers import MarkerReader, MarkerTrust
from hostmanager_server.drivers.process.membership import hard_limit, has_mark, real_uid
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Stat, read_file, read_stat

_SCAN_ROUNDS = 4  # a scan that has not settled by then is left to the next call


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a run's tree other than the main one, as a scan found it.

    `start` is in clock ticks since boot; `entry` is the inode in /proc.
    """

    pid: int
    start: int
    entry: int


@dataclass(eq=False, slots=True)
class ProcessTree:
    """The processes of one run.

    `main_pid` is the pid of the main process while the process lives, else 0. `session` is the session that
    the main process founded, as long as the kernel cannot have reused the number unnoticed, else 0. `group`
    is the cgroup of the run, if the daemon created one; the other evidence finds processes that moved to
    another cgroup. `uids` are the user ids of the agent: marker and mark (see `membership`) of a process
    with another user id do not count. `members` maps pids as text to members. `descends`: every process of
    the run descends from this process, and orphans become its children. `limit` is the hard limit by which
    such processes are known: the mark, or the limit of an agent without one.
    """

    token: bytes
    main_pid: int
    session: int
    group: Cgroup | None = None
    uids: tuple[int, ...] = ()
    mark: int | None = None
    members: dict[str, Member] = field(default_factory=dict)
    descends: bool = False
    limit: int | None = None

    def has_user_of(self, pid: int | str) -> bool:
        """Return whether a process has a user id of the agent.

        The agent may have changed its own user id since its start: the function adds the present one.
        """
        uid = real_uid(pid)
        if uid is None:
            return False
        if uid not in self.uids and self.main_pid and real_uid(self.main_pid) == uid:
            self.uids += (uid,)
        return uid in self.uids


class ProcessTable:
    """Scans /proc, and remembers which processes need no second reading.

    A memory of a pid holds as long as the pid's entry in /proc has the same inode: a new process with the
    pid has another one. A scan is sound although processes start and end meanwhile: the kernel lists pids
    in ascending order and assigns pids in ascending order, so the listing still reaches a child of a
    process that the listing has not yet reached. When the pids wrap around, or a process vanishes before
    the scan has classified it, the table scans again.
    """

    share = 3.0  # pause after a scan, in durations of the scan: scans take at most a quarter of the time
    fresh = 0.05  # s for which a scan is recent: one scan serves many stops at once

    def __init__(self) -> None:
        self._foreign: dict[str, int] = {}
        self._markers = MarkerReader()
        self.main_pids: set[str] = set()  # pids of living main processes, which need no scan

    def forget(self) -> None:
        """Read every process again in the next scan."""
        self._foreign.clear()

    def scan(self, trees: Mapping[bytes, ProcessTree], _wanted: Iterable[ProcessTree] = ()) -> bool:
        """Update the members of all trees; return False when another scan must follow."""
        settled = False
        for _ in range(_SCAN_ROUNDS):
            before = _last_pid()
            listing = _list_processes()
            settled = self._classify(listing, trees)
            if settled and _last_pid() >= before:
                return True
        return False

    def scan_cgroup(self, tree: ProcessTree) -> bool:
        """Add the processes in a tree's cgroup; return False when the scan must repeat.

        Raises OSError.
        """
        if tree.group is None:
            return True
        known = tree.members.keys() | self.main_pids
        fresh = [name for name in map(str, tree.group.pids()) if name not in known]
        if not fresh:
            return True
        found = []
        for name in fresh:
            member = as_member(name, entry_of(name), read_stat(name))
            if member is not None:
                found.append(member)
        # A foreign process may have got a pid before the reading. Such a process is not in the cgroup now.
        still = set(tree.group.pids())
        found = [member for member in found if member.pid in still]
        if any(self._foreign.get(str(member.pid)) == member.entry for member in found):
            self.add_members(tree, found)
            return False
        tree.members.update((str(member.pid), member) for member in found)
        return True

    def find_marked(self, tree: ProcessTree) -> list[Member]:
        """Return the living processes with the mark of a tree and a user id of its agent."""
        found = []
        for name, entry in _list_processes().items():
            if name.isdigit() and has_mark(int(name), tree.mark) and tree.has_user_of(name):
                member = as_member(name, entry, read_stat(name))
                if member is not None:
                    found.append(member)
        return found

    def forget_ended(self, member: Member) -> None:
        """Treat an ended process as foreign, even while /proc shows the zombie."""
        self._foreign[str(member.pid)] = member.entry

    def add_members(self, tree: ProcessTree, members: Iterable[Member]) -> None:
        """Add processes found by mark or cgroup to a tree.

        The next scan finds their children by descent.
        """
        tree.members.update((str(member.pid), member) for member in members)
        self.forget()

    def _classify(self, listing: dict[str, int], trees: Mapping[bytes, ProcessTree]) -> bool:
        foreign = self._foreign
        if len(foreign) > 2 * len(listing) + 100:
            self._foreign = foreign = {n: i for n, i in foreign.items() if listing.get(n) == i}
        known: dict[int, ProcessTree] = {}
        members: set[str] = set()
        for tree in trees.values():
            if tree.members:
                for name in [n for n, m in tree.members.items() if listing.get(n) != m.entry]:
                    del tree.members[name]
                known.update((member.pid, tree) for member in tree.members.values())
                members.update(tree.members)
            if tree.main_pid:
                known[tree.main_pid] = tree
            elif tree.session and str(tree.session) in listing:
                stat = read_stat(tree.session)
                # The main process is dead: another process has the pid, and the session number is reused.
                if stat is None or stat.alive:
                    tree.session = 0
        skip = self.main_pids
        fresh = [
            (n, i) for n, i in listing.items() if foreign.get(n) != i and n not in skip and n not in members
        ]
        by_session = {tree.session: tree for tree in trees.values() if tree.session}
        return self._classify_fresh(fresh, trees, known, by_session)

    def _classify_fresh(
        self,
        fresh: list[tuple[str, int]],
        trees: Mapping[bytes, ProcessTree],
        known: dict[int, ProcessTree],
        by_session: dict[int, ProcessTree],
    ) -> bool:
        settled = True
        self._markers.next_scan()
        by_mark: dict[int | None, ProcessTree] = {t.mark: t for t in trees.values() if t.mark is not None}
        undecided: list[tuple[str, int, Stat]] = []
        for name, entry in fresh:
            if not name.isdigit():
                self._foreign[name] = entry
                continue
            stat = read_stat(name)
            if stat is None:
                if entry_of(name) == entry:  # a hidden process of another user
                    self._foreign[name] = entry
                else:
                    # the vanished process may have left a child that the listing did not reach
                    settled = False
                continue
            if stat.kernel_thread or not stat.alive:
                self._foreign[name] = entry
                continue
            token, trust = self._markers.read(name, entry)
            tree = trees.get(token) or (by_mark.get(hard_limit(name)) if by_mark else None)
            if tree is not None and not tree.has_user_of(name):
                # Any user can copy a marker, and the agent may change its user id later.
                tree, trust = None, MarkerTrust.FOR_NOW
            if tree is None:
                tree = by_session.get(stat.session)
            if tree is not None:
                settled &= self._join(tree, name, entry, stat, known)
            else:
                settled &= trust is not MarkerTrust.UNSURE
                undecided.append((name, entry if trust is MarkerTrust.SURE else 0, stat))
        return self._decide_by_descent(undecided, known) and settled

    def _decide_by_descent(
        self, undecided: list[tuple[str, int, Stat]], known: dict[int, ProcessTree]
    ) -> bool:
        settled = joined = True
        while joined:
            joined = False
            rest = []
            for name, entry, stat in undecided:
                tree = known.get(stat.parent)
                if tree is None:
                    rest.append((name, entry, stat))
                else:
                    joined = True
                    settled &= self._join(tree, name, entry or entry_of(name), stat, known)
            undecided = rest
        self._foreign.update((name, entry) for name, entry, _ in undecided if entry)
        return settled

    def _join(
        self, tree: ProcessTree, name: str, entry: int, stat: Stat, known: dict[int, ProcessTree]
    ) -> bool:
        member = as_member(name, entry, stat)
        if member is None:
            return False
        tree.members[name] = member
        known[member.pid] = tree
        return True


def as_member(name: str, entry: int, stat: Stat | None) -> Member | None:
    """Return the process as a member; None unless it is still the listed process.

    Only then are the readings those of the listed process.
    """
    if stat is None or not stat.alive or not entry or entry_of(name) != entry:
        return None
    return Member(int(name), stat.start, entry)


def open_member(member: Member) -> int | None:
    """Return a pidfd of exactly this process, for the caller to close; None if gone.

    Raises OSError.
    """
    pidfd = pidfds.open_pidfd(member.pid)
    if pidfd is None:
        return None
    # While the pidfd shows the process unreaped, the pid is its own, and so are readings by the pid.
    stat = read_stat(member.pid)
    entry = entry_of(str(member.pid))
    if stat is not None and stat.start == member.start and entry == member.entry and pidfds.exists(pidfd):
        return pidfd
    os.close(pidfd)
    return None


def kill_members(tree: ProcessTree) -> None:
    """Kill the known members of a tree. Raises OSError."""
    for member in tree.members.values():
        pidfd = open_member(member)
        if pidfd is not None:
            pidfds.send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def _list_processes() -> dict[str, int]:
    with os.scandir("/proc") as entries:
        return {entry.name: entry.inode() for entry in entries}


def entry_of(name: str) -> int:
    """Return the inode of a process in /proc; 0 when the process is gone or hidden."""
    try:
        return os.stat(f"/proc/{name}").st_ino
    except OSError:
        return 0


def _last_pid() -> int:
    """Return the most recently assigned number of a process or thread."""
    return int(read_file("/proc/loadavg").rsplit(None, 1)[1])
