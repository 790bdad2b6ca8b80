"""What compose is to do for a project next: everything asked for meanwhile, in one call."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from hostmanager_server.core.events import RunKey


class Work(Enum):
    """What a call is to do."""

    UP = "up"
    MEND = "mend"  # start what is missing of services that run in part, and leave the rest alone
    CLEAR = "clear"  # remove what does not run, as the engine cannot start it again; a start follows
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class ComposeBatch:
    """Services of one project, by instance id, with the runs that this is about."""

    work: Work
    runs: Mapping[str, RunKey]

    def __len__(self) -> int:
        return len(self.runs)


class ComposeBatches:
    """What is asked for and not yet begun. Removals come first: they make room, and a start may wait for
    one."""

    def __init__(self) -> None:
        self._asked: dict[Work, dict[str, RunKey]] = {work: {} for work in Work}
        self._halves: deque[ComposeBatch] = deque()

    def ask(self, work: Work, run: RunKey) -> None:
        """Do this with the next call."""
        self._asked[work][run.instance_id] = run

    def halve(self, batch: ComposeBatch) -> None:
        """A call failed, and whose fault that was is to be found: compose does nothing for a dozen services
        when the image of one cannot be had."""
        runs = list(batch.runs.items())
        middle = len(runs) // 2
        self._halves.extend(ComposeBatch(batch.work, dict(part)) for part in (runs[:middle], runs[middle:]))

    def withdraw(self, run: RunKey) -> bool:
        """Do not start this run. Whether it had been asked for and was not begun."""
        withdrawn = False
        for work in (Work.CLEAR, Work.UP, Work.MEND):
            if self._asked[work].get(run.instance_id) == run:
                del self._asked[work][run.instance_id]
                withdrawn = True
        for index, batch in enumerate(self._halves):
            if batch.runs.get(run.instance_id) == run:
                rest = {i: r for i, r in batch.runs.items() if r != run}
                self._halves[index] = ComposeBatch(batch.work, rest)
                withdrawn = True
        return withdrawn

    def next(self) -> ComposeBatch | None:
        """What the next call is to do; None: nothing."""
        for work in (Work.REMOVE, Work.CLEAR):
            if runs := self._take(work):
                return ComposeBatch(work, runs)
        while self._halves:
            batch = self._halves.popleft()
            if batch:
                return batch
        for work in (Work.MEND, Work.UP):
            if runs := self._take(work):
                return ComposeBatch(work, runs)
        return None

    def _take(self, work: Work) -> dict[str, RunKey]:
        runs, self._asked[work] = self._asked[work], {}
        return runs
