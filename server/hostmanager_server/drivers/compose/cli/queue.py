"""Who calls compose when: one call at a time for each project, with all that is asked for meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hostmanager_server.core.events import RunKey
from hostmanager_server.drivers.compose.cli.batches import ComposeBatch, ComposeBatches, Work
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
MakeCommand = Callable[[Work, Sequence[FollowedService]], list[str]]


@dataclass(eq=False, slots=True)
class _Queue:
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
        self, poller: Poller, calls: ComposeCalls, refresh: RefreshProject, command: MakeCommand
    ) -> None:
        self._poller = poller
        self._calls = calls
        self._refresh = refresh
        self._command = command
        self._queues: dict[str, _Queue] = {}

    def ask(self, work: Work, service: FollowedService) -> None:
        """Have this done for the service's present run."""
        assert service.run is not None
        project = service.wanted.project
        queue = self._queues.setdefault(project, _Queue(project))
        queue.services[service.run.instance_id] = service
        queue.batches.ask(work, service.run)
        if queue.batch is None:
            if queue.gathering_until is None:
                queue.gathering_until = self._poller.now().mono + GATHER_AT_MOST
                self._gather(queue)
            else:
                queue.joined = True
        elif work is Work.REMOVE and queue.call is not None and queue.batch.work is not Work.REMOVE:
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

    def _gather(self, queue: _Queue) -> None:
        queue.joined = False
        self._poller.call_later(GATHER, functools.partial(self._gathered, queue))

    def _gathered(self, queue: _Queue) -> None:
        assert queue.gathering_until is not None
        if queue.joined and self._poller.now().mono < queue.gathering_until:
            self._gather(queue)
            return
        queue.gathering_until = None
        if self._is_current(queue) and queue.batch is None:
            self._call_next(queue)

    def _is_current(self, queue: _Queue) -> bool:
        return self._queues.get(queue.project) is queue

    def _call_next(self, queue: _Queue) -> None:
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
                    queue.batches.ask(batch.work, run)
            self._call(queue, ComposeBatch(batch.work, runs), files)
            return
        queue.services.clear()

    def _call(self, queue: _Queue, batch: ComposeBatch, files: tuple[str, ...]) -> None:
        queue.batch = batch
        done = functools.partial(self._called, queue, batch)
        try:
            argv = self._command(batch.work, [queue.services[instance_id] for instance_id in batch.runs])
        except ComposeError as error:
            done(str(error))
        else:
            queue.call = self._calls.start(argv, str(Path(files[0]).parent), done)

    def _called(self, queue: _Queue, batch: ComposeBatch, error: str) -> None:
        """A call is done. What came of it is known once the engine has been asked."""
        queue.call = None
        if self._is_current(queue):
            self._refresh(queue.project, functools.partial(self._concluded, queue, batch, error))

    def _concluded(self, queue: _Queue, batch: ComposeBatch, error: str) -> None:
        if not self._is_current(queue):
            return
        queue.batch = None
        services = [queue.services[instance_id] for instance_id in batch.runs]
        if batch.work is Work.REMOVE:
            for service in services:
                service.stop_ended(error)
        elif batch.work is not Work.CLEAR:  # what came of that the start will tell, which comes next
            self._launches_ended(queue, batch, services, error)
        self._call_next(queue)

    def _launches_ended(
        self, queue: _Queue, batch: ComposeBatch, services: Sequence[FollowedService], error: str
    ) -> None:
        # Compose does nothing for a dozen services when the image of one cannot be had.
        innocent: dict[str, RunKey] = {}
        if error and len(batch) > 1:
            for service in services:
                run = batch.runs[service.spec.instance_id]
                if service.run == run and service.waits_for_compose and not service.stopping:
                    innocent[run.instance_id] = run
            queue.batches.halve(ComposeBatch(batch.work, innocent))
        for service in services:
            run = batch.runs[service.spec.instance_id]
            if run.instance_id not in innocent:
                service.launch_ended(run, error)
