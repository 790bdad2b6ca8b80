"""Batches of compose tasks: all requests of a project since its last call."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum

from hostmanager.values import dataclass

from hostmanager_server.core.events import RunKey


class ComposeTask(Enum):
    """The task of a compose call."""

    UP = "up"
    UP_MISSING = "up-missing"  # start the missing containers of degraded services; leave running ones alone
    REMOVE_STOPPED = "remove-stopped"  # remove containers that the engine cannot start; a start follows
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class ComposeBatch:
    """Services of one project for one compose call: their runs, by instance id."""

    task: ComposeTask
    runs: Mapping[str, RunKey]

    def __len__(self) -> int:
        return len(self.runs)


class ComposeBatches:
    """Requested tasks of one project that no call has begun.

    Removals come first: they free resources, and a start may wait for a removal.
    """

    def __init__(self) -> None:
        self._requested: dict[ComposeTask, dict[str, RunKey]] = {task: {} for task in ComposeTask}
        self._split_batches: deque[ComposeBatch] = deque()

    def request(self, task: ComposeTask, run: RunKey) -> None:
        """Include this task in the next call."""
        self._requested[task][run.instance_id] = run

    def split(self, batch: ComposeBatch) -> None:
        """Queue both halves of a failed batch, to find the service that failed.

        Compose starts none of a dozen services when the image of one is missing.
        """
        runs = list(batch.runs.items())
        middle = len(runs) // 2
        self._split_batches.extend(
            ComposeBatch(batch.task, dict(part)) for part in (runs[:middle], runs[middle:])
        )

    def withdraw(self, run: RunKey) -> bool:
        """Drop the requested start of a run.

        Returns whether a start was requested and not begun.
        """
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
        """Return the batch for the next call, or None."""
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
