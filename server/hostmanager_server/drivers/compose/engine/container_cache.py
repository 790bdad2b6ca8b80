"""What is known of each container, folded from the engine's events and from inspections.

The rule that keeps newer facts from turning into older ones:

- An inspection is made on the thread that folds the events, so it is asked for after every event folded so
  far, and the engine changes a container before it tells of it. An inspection is thus never older than what
  is known, and is believed.
- An event may be older than what is known: an inspection saw what came after it. Each container has a
  version, the latest of its start, its end and the events folded; an event before that is passed over. Both
  times are the engine's own, so no two clocks are compared. When the engine's clock is set back, events
  may be passed over wrongly; the inspection that follows every burst of events puts that right.
- An inspection may be ahead of the events: it shows a run of which no event has told yet. Those events are
  on their way, and taking its word would swallow the end of the run before, exit code and all. `ahead`
  says so, and the caller inspects again once they have been folded.
- A container that was destroyed cannot come back: its late events find nothing known, and an inspection
  nothing to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hostmanager_server.drivers.compose.engine.container import Container


class ContainerCache:
    """The newest facts of every container. Methods that fold return what there is to tell, in order."""

    def __init__(self) -> None:
        self._known: dict[str, Container] = {}
        self._versions: dict[str, float] = {}

    def reset(self, containers: Iterable[Container]) -> None:
        """These, all just inspected, are all there are."""
        self._known.clear()
        self._versions.clear()
        for container in containers:
            self._keep(container)

    def get(self, container_id: str) -> Container | None:
        return self._known.get(container_id)

    def of_project(self, project: str) -> set[str]:
        """The ids of its containers."""
        return {known.id for known in self._known.values() if known.project == project}

    def ended(self, container_id: str, exit_code: int, at: float) -> tuple[Container, ...]:
        """An event told that the main process ended, at this time of the engine's clock."""
        known = self._known.get(container_id)
        # What does not run ended before, and an inspection told of it: with its own, exact time.
        if known is None or not known.running or at < self._versions[container_id]:
            return ()
        ended = replace(
            known, running=False, status="exited", exit_code=exit_code, finished=at, pid=0, health=""
        )
        return self._keep(ended, at)

    def started(self, seen: Container, at: float) -> tuple[Container, ...]:
        """An event told of a start at this time of the engine's clock, and this was then inspected."""
        known = self._known.get(seen.id)
        if known is not None and at < self._versions[seen.id]:
            return ()
        if known is not None and known.started == seen.started:
            return self.inspected(seen)
        # The event is told after the start that it tells of: a later start is another one.
        same_run = seen.started is not None and seen.started <= at
        if not same_run and known is not None and known.running:
            return ()  # the event tells of the known run; the inspection is ahead, and is made again
        if same_run and seen.running:
            return self._keep(seen, at)
        # The run that the event tells of is over already. Its end will be told by an event, too; here it
        # has its start.
        began = seen.started if same_run and seen.started is not None else at
        return self._keep(_begun(seen, began, known.finished if known is not None else None), at)

    def started_unseen(self, container_id: str, at: float) -> tuple[Container, ...]:
        """An event told of a start at this time of the engine's clock, and no inspection was to be had."""
        known = self._known.get(container_id)
        if known is None:
            self._versions[container_id] = at  # no inspection is ahead of this event any more
            return ()
        # One that is known to run is in this very run: an inspection saw it before its event was folded.
        if known.running or at < self._versions[container_id]:
            return ()
        return self._keep(_begun(known, at, known.finished), at)

    def ahead(self, seen: Container) -> bool:
        """Whether the inspected container shows another run than the last one known, with an end before it
        of which an event has yet to tell."""
        version = self._versions.get(seen.id)
        if version is None:
            return seen.started is not None  # not listed, so it is new: its first start will be told
        return self._another_run(seen) and seen.finished is not None and seen.finished > version

    def inspected(self, seen: Container) -> tuple[Container, ...]:
        """This was inspected just now."""
        known = self._known.get(seen.id)
        if known is not None and not self._another_run(seen):
            # Times that came from events are near, not exact: to put them right is not worth a word.
            known = replace(known, started=seen.started, finished=seen.finished)
            if known == seen:
                self._keep(seen)
                return ()
        return self._keep(seen)

    def gone(self, container_id: str) -> bool:
        """It was removed. Whether it was known."""
        self._versions.pop(container_id, None)
        return self._known.pop(container_id, None) is not None

    def _another_run(self, seen: Container) -> bool:
        version = self._versions.get(seen.id)
        return version is not None and seen.started is not None and seen.started > version

    def _keep(self, container: Container, at: float = 0.0) -> tuple[Container, ...]:
        # Not of the version before: one made by a clock that was set back since would outlive its run.
        self._known[container.id] = container
        self._versions[container.id] = max(at, container.started or 0.0, container.finished or 0.0)
        return (container,)


def _begun(container: Container, started: float, finished: float | None) -> Container:
    """What is known of a run of a container by its start alone; `finished`: when the one before ended."""
    return replace(
        container,
        running=True,
        status="running",
        exit_code=0,
        started=started,
        finished=finished,
        pid=0,
        health="",
    )
