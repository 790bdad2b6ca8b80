"""What compose is to do for a project next: everything asked for meanwhile, in one call."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from hostmanager_server.core.events import RunKey


class ComposeTask(Enum):
    """What a call is to do."""

    UP = "up"
    UP_MISSING = "up-missing"  # start what is missing of services that run in part, and leave the rest alone
    REMOVE_STOPPED = (
        "remove-stopped"  # remove what does not run, as the engine cannot start it again; a start follows
    )
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class ComposeBatch:
    """Services of one project, by instance id, with the runs that this is about."""

    task: ComposeTask
    runs: Mapping[str, RunKey]

    def __len__(self) -> int:
        return len(self.runs)


class ComposeBatches:
    """What is asked for and not yet begun. Removals come first: they make room, and a start may wait for
    one."""

    def __init__(self) -> None:
        self._requested: dict[ComposeTask, dict[str, RunKey]] = {task: {} for task in ComposeTask}
        self._split_batches: deque[ComposeBatch] = deque()

    def request(self, task: ComposeTask, run: RunKey) -> None:
        """Do this with the next call."""
        self._requested[task][run.instance_id] = run

    def split(self, batch: ComposeBatch) -> None:
        """A call failed, and whose fault that was is to be found: compose does nothing for a dozen services
        when the image of one cannot be had."""
        runs = list(batch.runs.items())
        middle = len(runs) // 2
        self._split_batches.extend(
            ComposeBatch(batch.task, dict(part)) for part in (runs[:middle], runs[middle:])
        )

    def withdraw(self, run: RunKey) -> bool:
        """Do not start this run. Whether it had been asked for and was not begun."""
        withdrawn = False
        for task in (ComposeTask.REMOVE_STOPPED, ComposeTask.UP, ComposeTask.UP_MISSING):
            if self._requested[task].get(run.instance_id) == run:
                del self._requested[task][run.instance_id]
                withdrawn = True
        for index, batch in enumerate(self._split_batches):
            if batch.runs.get(run.instance_id) == run:
                rest = {i: r for i, r in batch.runs.items() if r != run}
                self._split_batches[index] = ComposeBatch(batch.task, rest)
                withdrawn = True
        return withdrawn

    def next(self) -> ComposeBatch | None:
        """What the next call is to do; None: nothing."""
        for task in (ComposeTask.REMOVE, ComposeTask.REMOVE_STOPPED):
            if runs := self._take(task):
                return ComposeBatch(task, runs)
        while self._split_batches:
            batch = self._split_batches.popleft()
            if batch:
                return batch
        for task in (ComposeTask.UP_MISSING, ComposeTask.UP):
            if runs := self._take(task):
                return ComposeBatch(task, runs)
        return None

    def _take(self, task: ComposeTask) -> dict[str, RunKey]:
        runs, self._requested[task] = self._requested[task], {}
        return runs
