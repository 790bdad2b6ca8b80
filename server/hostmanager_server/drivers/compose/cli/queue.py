"""Who calls compose when: one call at a time for each project, with all that is asked for meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hostmanager_server.core.events import RunKey
from hostmanager_server.drivers.compose.cli.batches import ComposeBatch, ComposeBatches, ComposeTask
from hostmanager_server.drivers.compose.cli.process import ComposeCall, ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.service import FollowedService
from hostmanager_server.drivers.contract import Poller

# How long, in s, a call waits for another service to join it: longer than a turn of the supervisor (SLICE),
# as what one request starts may come in several, with other instances between. The wait begins anew with
# whatever came during it, but not for ever, as a client may go on and on changing its mind.
GATHER = 0.05
GATHER_AT_MOST = 1.0

# Looks at a project's containers anew, then calls back.
RefreshProject = Callable[[str, Callable[[], None]], None]
MakeCommandLine = Callable[[ComposeTask, Sequence[FollowedService]], list[str]]


@dataclass(eq=False, slots=True)
class _ProjectQueue:
    """One at a time, as compose does not lock what it works on."""

    project: str
    batches: ComposeBatches = field(default_factory=ComposeBatches)
    services: dict[str, FollowedService] = field(
        default_factory=dict
    )  # that anything was asked for, by instance id
    batch: ComposeBatch | None = None  # under way
    call: ComposeCall | None = None
    gathering_until: float | None = None  # at most, mono in s; None: nothing is waited for
    joined: bool = False  # something was asked for while it waited


class CallQueue:
    """Tells each service when compose is through with it. Belongs to the supervisor thread.

    `command` makes the command line for services of the same files; it may raise ComposeError.
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
        """Have this done for the service's present run."""
        assert service.run is not None
        project = service.wanted.project
        queue = self._queues.setdefault(project, _ProjectQueue(project))
        queue.services[service.run.instance_id] = service
        queue.batches.request(task, service.run)
        if queue.batch is None:
            if queue.gathering_until is None:
                queue.gathering_until = self._poller.now().mono + GATHER_AT_MOST
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
                queue.call.interrupt()  # nobody wants any more what it is at

    def withdraw(self, service: FollowedService) -> bool:
        """Do not start the service's present run. Whether that was asked for, and not begun."""
        queue = self._queues.get(service.wanted.project)
        return queue is not None and service.run is not None and queue.batches.withdraw(service.run)

    def clear(self) -> None:
        """Forget all that was asked for. A call under way goes on, and nobody is told of its end."""
        self._queues.clear()

    def _start_gathering(self, queue: _ProjectQueue) -> None:
        queue.joined = False
        self._poller.call_later(GATHER, functools.partial(self._finish_gathering, queue))

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
        """Begin the next call, if there is anything to do."""
        while (batch := queue.batches.next()) is not None:
            by_files: dict[tuple[str, ...], dict[str, RunKey]] = {}
            for instance_id, run in batch.runs.items():
                service = queue.services[instance_id]
                if service.run == run:  # nothing has become of it meanwhile
                    by_files.setdefault(service.wanted.files, {})[instance_id] = run
            if not by_files:
                continue
            (files, runs), *others = by_files.items()
            for _, later in others:  # several sets of files with one project name: one set a call
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
            queue.call = self._calls.start(argv, str(Path(files[0]).parent), done)

    def _finish_call(self, queue: _ProjectQueue, batch: ComposeBatch, error: str) -> None:
        """A call is done. What came of it is known once the engine has been asked."""
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
        elif (
            batch.task is not ComposeTask.REMOVE_STOPPED
        ):  # what came of that the start will tell, which comes next
            self._finish_launches(queue, batch, services, error)
        self._start_next_call(queue)

    def _finish_launches(
        self, queue: _ProjectQueue, batch: ComposeBatch, services: Sequence[FollowedService], error: str
    ) -> None:
        # Compose does nothing for a dozen services when the image of one cannot be had.
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
