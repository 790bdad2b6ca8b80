"""Queue of compose calls: one call at a time for each project.

Requests that arrive within a short time, or during a call, share the next call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from hostmanager.values import dataclass, field

from hostmanager_server.core.events import RunKey
from hostmanager_server.drivers.compose.cli.batches import ComposeBatch, ComposeBatches, ComposeTask
from hostmanager_server.drivers.compose.cli.process import ComposeCall, ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.followed_service import FollowedService
from hostmanager_server.drivers.contract import Poller

# How long, in s, a call waits for further services. Longer than a turn of the supervisor (SLICE), because
# the starts of one request may take several turns, with other instances in between. Each request during the
# wait restarts the wait, up to a limit, because a client may send requests without end.
GATHER_TIME = 0.05
GATHER_LIMIT = 1.0

# Inspects the containers of a project, then calls back.
RefreshProject = Callable[[str, Callable[[], None]], None]
MakeCommandLine = Callable[[ComposeTask, Sequence[FollowedService]], list[str]]


@dataclass(eq=False, slots=True)
class _ProjectQueue:
    """The queue of one project.

    Calls never overlap, because compose takes no lock on a project.
    """

    project: str
    batches: ComposeBatches = field(default_factory=ComposeBatches)
    services: dict[str, FollowedService] = field(default_factory=dict)  # with requests, by instance id
    batch: ComposeBatch | None = None  # of the running call
    call: ComposeCall | None = None
    gathering_until: float | None = None  # latest end of the wait, mono in s; None: no wait
    joined: bool = False  # a request arrived during the wait


class CallQueue:
    """The compose calls of all projects; each service learns when its call has ended.

    `command` returns the command line for services of the same files, and may raise ComposeError. Belongs to
    the supervisor thread.
    """

    def __init__(
        self, poller: Poller, calls: ComposeCalls, refresh: RefreshProject, command: MakeCommandLine
    ) -> None:
        self._poller = poller
        self._calls = calls
        self._refresh = refresh
        self._command_line = command
        self._queues: dict[str, _ProjectQueue] = {}

    def request(self, task: ComposeTask, service: FollowedService) -> None:
        """Request a task for the service's present run."""
        assert service.run is not None
        project = service.wanted.project
        queue = self._queues.setdefault(project, _ProjectQueue(project))
        queue.services[service.run.instance_id] = service
        queue.batches.request(task, service.run)
        if queue.batch is None:
            if queue.gathering_until is None:
                queue.gathering_until = self._poller.now().mono + GATHER_LIMIT
                self._start_gathering(queue)
            else:
                queue.joined = True
        elif (
            task is ComposeTask.REMOVE
            and queue.call is not None
            and queue.batch.task is not ComposeTask.REMOVE
        ):
            involved = [queue.services[instance_id] for instance_id in queue.batch.runs]
            if all(each.stopping for each in involved):
                queue.call.interrupt()  # every service of the call must stop by now

    def withdraw(self, service: FollowedService) -> bool:
        """Drop the requested start of the service's present run.

        Returns whether the start was requested and no call had begun it.
        """
        queue = self._queues.get(service.wanted.project)
        return queue is not None and service.run is not None and queue.batches.withdraw(service.run)

    def clear(self) -> None:
        """Drop all requests. A running call goes on, and its end is ignored."""
        self._queues.clear()

    def _start_gathering(self, queue: _ProjectQueue) -> None:
        queue.joined = False
        self._poller.call_later(GATHER_TIME, functools.partial(self._finish_gathering, queue))

    def _finish_gathering(self, queue: _ProjectQueue) -> None:
        assert queue.gathering_until is not None
        if queue.joined and self._poller.now().mono < queue.gathering_until:
            self._start_gathering(queue)
            return
        queue.gathering_until = None
        if self._is_current(queue) and queue.batch is None:
            self._start_next_call(queue)

    def _is_current(self, queue: _ProjectQueue) -> bool:
        return self._queues.get(queue.project) is queue

    def _start_next_call(self, queue: _ProjectQueue) -> None:
        """Start the next call, if any task is requested."""
        while (batch := queue.batches.next()) is not None:
            by_files: dict[tuple[str, ...], dict[str, RunKey]] = {}
            for instance_id, run in batch.runs.items():
                service = queue.services[instance_id]
                if service.run == run:  # the run has not ended since the request
                    by_files.setdefault(service.wanted.files, {})[instance_id] = run
            if not by_files:
                continue
            (files, runs), *others = by_files.items()
            for _, later in others:  # one call for each set of files that share the project name
                for run in later.values():
                    queue.batches.request(batch.task, run)
            self._start_call(queue, ComposeBatch(batch.task, runs), files)
            return
        queue.services.clear()

    def _start_call(self, queue: _ProjectQueue, batch: ComposeBatch, files: tuple[str, ...]) -> None:
        queue.batch = batch
        done = functools.partial(self._finish_call, queue, batch)
        try:
            argv = self._command_line(batch.task, [queue.services[instance_id] for instance_id in batch.runs])
        except ComposeError as error:
            done(str(error))
        else:
            grace = max(queue.services[instance_id].stop_grace for instance_id in batch.runs)
            queue.call = self._calls.start(argv, str(Path(files[0]).parent), done, stop_grace=grace)

    def _finish_call(self, queue: _ProjectQueue, batch: ComposeBatch, error: str) -> None:
        """Refresh the project after a call: the engine alone knows the outcome."""
        queue.call = None
        if self._is_current(queue):
            self._refresh(queue.project, functools.partial(self._finish_batch, queue, batch, error))

    def _finish_batch(self, queue: _ProjectQueue, batch: ComposeBatch, error: str) -> None:
        if not self._is_current(queue):
            return
        queue.batch = None
        services = [queue.services[instance_id] for instance_id in batch.runs]
        if batch.task is ComposeTask.REMOVE:
            for service in services:
                service.finish_stop(error)
        elif batch.task is not ComposeTask.REMOVE_STOPPED:  # the next call, a start, shows its outcome
            self._finish_launches(queue, batch, services, error)
        self._start_next_call(queue)

    def _finish_launches(
        self, queue: _ProjectQueue, batch: ComposeBatch, services: Sequence[FollowedService], error: str
    ) -> None:
        # Compose starts none of a dozen services when the image of one is missing: retry in halves.
        retried: dict[str, RunKey] = {}
        if error and len(batch) > 1:
            for service in services:
                run = batch.runs[service.spec.instance_id]
                if service.run == run and service.waits_for_compose and not service.stopping:
                    retried[run.instance_id] = run
            queue.batches.split(ComposeBatch(batch.task, retried))
        for service in services:
            run = batch.runs[service.spec.instance_id]
            if run.instance_id not in retried:
                service.finish_launch(run, error)
