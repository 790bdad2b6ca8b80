"""The process trees of all runs, followed until nothing of them is left."""

from __future__ import annotations

import functools
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hostmanager_server.drivers.contract import Poller, Timer
from hostmanager_server.drivers.process.process_table import Member, ProcessTable, ProcessTree, open_member
from hostmanager_server.drivers.process.records.record_directory import Records
from hostmanager_server.linux import pidfds

_SHARE = 3.0  # rest after a look, in durations of the look: looking takes at most a quarter of the time
_AGAIN = 0.001  # s until a look that did not settle is repeated
_FRESH = 0.05  # s for which a look serves the stops that follow it: many are stopped at once
_SURVEY_LOOKS = 100
_NO_DESCRIPTORS = 0.1  # s until a look that could not be taken is repeated
_UNSEEN_AGAIN_MAX = 1.0  # s; who cannot be seen is looked for ever more rarely, up to this
_UNSEEN_WARN = 10
_LOOKS_TO_TELL = 10
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _TrackedTree:
    """What is to be done about one tree."""

    tree: ProcessTree
    instance_id: str
    gone: Callable[[], None]
    leaderless: bool = False
    looked: Callable[[], None] | None = None  # to be called after the first look without its leader
    looks: int = 0
    signum: int = 0  # to be sent to the members; 0: none
    signalled: set[Member] = field(default_factory=set)
    watched: dict[Member, int] = field(default_factory=dict)  # with their pidfds
    unseen_tries: int = 0
    stranger: bool = False  # who holds the run's lock is known not to be of it

    def tell(self, settled: bool) -> Callable[[], None] | None:
        """Whom to tell that a look was taken; a few that do not settle count as one that does."""
        self.looks += 1
        if self.looked is None or not (settled or self.looks >= _LOOKS_TO_TELL):
            return None
        looked, self.looked = self.looked, None
        return looked


class TreeTracker:
    """Tracks trees from the launch of their leader to the end of their last process.

    One look at the process table answers for all trees that wait for one. The first comes at once, so that
    a lost agent is replaced without delay; when many are asked for they are spaced out.
    """

    def __init__(self, poller: Poller, records: Records) -> None:
        self._poller = poller
        self._records = records
        self._table = ProcessTable()
        self._trees: dict[bytes, ProcessTree] = {}
        self._plants: dict[ProcessTree, _TrackedTree] = {}
        self._waiting: dict[ProcessTree, _TrackedTree] = {}
        self._timer: Timer | None = None
        self._due = 0.0
        self._rest_until = 0.0
        self._looked = 0.0
        self._blind = False  # the last look could not be taken, which was said

    def plant(self, tree: ProcessTree, instance_id: str, gone: Callable[[], None]) -> None:
        """Track a tree; `gone` is called once when nothing of it is left, after `leader_ended`."""
        self._trees[tree.token] = tree
        self._plants[tree] = _TrackedTree(tree, instance_id, gone)
        if tree.leader:
            self._table.leaders.add(str(tree.leader))

    def uproot(self, tree: ProcessTree) -> None:
        """Track a tree no longer of which nothing is left, and tell nobody."""
        self._trees.pop(tree.token, None)
        self._plants.pop(tree, None)
        self._waiting.pop(tree, None)
        self._table.leaders.discard(str(tree.leader))

    def leader_ended(self, tree: ProcessTree, looked: Callable[[], None]) -> None:
        """Find out, now or some milliseconds from now, what is left of the tree. `looked` is called when that
        is known; `gone` follows at once when nothing is."""
        plant = self._plants[tree]
        plant.looked = looked
        if tree.leader:
            self._table.leaders.discard(str(tree.leader))
            tree.leader = 0
        plant.leaderless = True
        self._waiting[tree] = plant
        self._request(0.0)

    def refresh(self) -> None:
        """Make sure that the members are known as of a moment ago.

        To be called before a leader is signalled: once it has ended, descent no longer tells who its
        children were.
        """
        if time.monotonic() - self._looked > _FRESH:
            self._look()

    def signal_members(self, tree: ProcessTree, signum: int) -> None:
        """Send `signum` to everybody of the tree but its leader; with SIGKILL, until nobody is left. A tree
        of which nothing is left is ignored."""
        plant = self._plants.get(tree)
        if plant is None:
            return
        if plant.signum != signal.SIGKILL:
            plant.signum = signum
            plant.signalled.clear()
        self._waiting[tree] = plant
        self._request(0.0)

    def survey(self, trees: list[ProcessTree]) -> list[ProcessTree]:
        """Those of these (not yet planted) trees of which something may be alive; waits a little to know."""
        # With the others: a look that does not know of those would take theirs for strangers for good.
        by_token = {**self._trees, **{tree.token: tree for tree in trees}}
        for _ in range(_SURVEY_LOOKS):
            if not trees or (self._table.look(by_token) and self._look_into_groups(trees)):
                return [tree for tree in trees if tree.members or (tree.group and tree.group.populated())]
            time.sleep(_AGAIN)
        return trees

    def clear(self) -> None:
        """Let go of every tree."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for plant in self._plants.values():
            self._unwatch(plant, list(plant.watched))
        self._plants.clear()
        self._waiting.clear()
        self._trees.clear()
        self._table.leaders.clear()

    def _request(self, delay: float) -> None:
        now = time.monotonic()
        due = max(now + delay, self._rest_until)
        if self._timer is not None:
            if due >= self._due:
                return
            self._timer.cancel()
            self._timer = None
        if due <= now:
            self._look()
        else:
            self._due = due
            self._timer = self._poller.call_later(due - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._look()

    def _look(self) -> None:
        began = time.monotonic()
        gone: list[_TrackedTree] = []
        again: list[float] = []
        settled = False
        try:
            settled = self._table.look(self._trees)
            settled &= self._look_into_groups([plant.tree for plant in self._waiting.values()])
            if not settled:
                again.append(_AGAIN)
            for plant in list(self._waiting.values()):
                delay = self._attend(plant, settled)
                if delay is not None:
                    again.append(delay)
                elif plant.leaderless and settled and not plant.tree.members:
                    gone.append(plant)
        except OSError as error:
            if not self._blind:
                self._blind = True
                _log.warning("cannot look for what is left of ended agents: %s; trying again", error)
            again.append(_NO_DESCRIPTORS)
        else:
            self._blind = False
        told = [told for plant in self._waiting.values() if (told := plant.tell(settled)) is not None]
        for plant in gone:
            self._waiting.pop(plant.tree, None)
            self._plants.pop(plant.tree, None)
            self._trees.pop(plant.tree.token, None)
            self._unwatch(plant, list(plant.watched))
        ended = time.monotonic()
        self._looked = ended
        self._rest_until = ended + _SHARE * (ended - began)
        if again and self._waiting:
            self._request(min(again))
        for looked in told:
            looked()
        for plant in gone:
            plant.gone()

    def _look_into_groups(self, trees: list[ProcessTree]) -> bool:
        settled = True
        for tree in trees:
            settled &= self._table.look_into_group(tree)
        return settled

    def _attend(self, plant: _TrackedTree, settled: bool) -> float | None:
        """Does what is due for a tree that waits; s until its next look, None when something else will
        cause that."""
        again = self._signal(plant, settled) if plant.signum else None
        if plant.leaderless:
            self._watch_survivors(plant)
            if not plant.tree.members:
                return self._check_unseen(plant) if settled else _AGAIN
        elif not plant.signum:
            self._waiting.pop(plant.tree, None)
        return again

    def _signal(self, plant: _TrackedTree, settled: bool) -> float | None:
        fresh = [member for member in plant.tree.members.values() if member not in plant.signalled]
        group = plant.tree.group
        if plant.signum == signal.SIGKILL and group is not None and (fresh or not plant.tree.members):
            # Reaches who is being forked just now, and who cannot be seen. The leader was sent the same.
            group.kill()
        for member in fresh:
            pidfd = open_member(member)
            if pidfd is not None:
                pidfds.send_signal(pidfd, plant.signum)
                os.close(pidfd)
                plant.signalled.add(member)
        if plant.signum == signal.SIGKILL:
            return _AGAIN if fresh else None  # whom they started before they died is next
        if settled:
            plant.signum = 0
            plant.signalled.clear()
        return None

    def _watch_survivors(self, plant: _TrackedTree) -> None:
        members = plant.tree.members
        self._unwatch(plant, [member for member in plant.watched if members.get(str(member.pid)) != member])
        for member in list(members.values()):
            if member not in plant.watched:
                pidfd = open_member(member)
                if pidfd is None:
                    del members[str(member.pid)]
                    self._request(_AGAIN)
                    continue
                plant.watched[member] = pidfd
                self._poller.watch(pidfd, functools.partial(self._survivor_ended, plant, member))

    def _survivor_ended(self, plant: _TrackedTree, member: Member) -> None:
        if not pidfds.has_ended(plant.watched[member]):
            return
        self._unwatch(plant, [member])
        if plant.tree.members.get(str(member.pid)) == member:
            del plant.tree.members[str(member.pid)]
        self._table.dead(member)
        if not plant.watched:
            self._request(0.0)

    def _unwatch(self, plant: _TrackedTree, members: list[Member]) -> None:
        for member in members:
            pidfd = plant.watched.pop(member, None)
            if pidfd is not None:
                self._poller.unwatch(pidfd)
                os.close(pidfd)

    def _check_unseen(self, plant: _TrackedTree) -> float | None:
        """s until the next look for somebody whom the last one did not show; None when there is nobody."""
        tree = plant.tree
        locked = not plant.stranger and self._records.is_locked(plant.instance_id)
        if locked:
            marked = self._table.marked(tree)
            if marked:
                self._table.adopt(tree, marked)
                return 0.0
        populated = tree.group is not None and tree.group.populated()  # for a moment after an end, too
        if not locked and not populated:
            return None
        plant.unseen_tries += 1
        if plant.unseen_tries == _UNSEEN_WARN:
            if locked:
                plant.stranger = True
                _log.warning(
                    "the lock of the ended run of '%s' is held by %s, which cannot be told to be of it; "
                    "what holds it is left alone, and the run counts as gone",
                    plant.instance_id,
                    self._records.told_holders(plant.instance_id),
                )
                return _AGAIN if populated else None
            _log.warning(
                "something of '%s' is alive and cannot be seen: its cgroup '%s' is not empty; "
                "end it by hand, or run the daemon as root",
                plant.instance_id,
                tree.group and tree.group.path,
            )
        return min(_UNSEEN_AGAIN_MAX, _AGAIN * 2.0 ** min(plant.unseen_tries, _UNSEEN_WARN))
