"""Cache of container facts, folded from engine events and inspections.

These rules keep newer facts from being replaced by older facts:

- The thread that folds events also makes the inspections, and the engine changes a container before the
  engine sends the event. So an inspection is never older than the cached facts, and the cache takes it.
- An event may be older than the cached facts, because an inspection showed a later state. Each container has
  a version: the latest of its start, its end and the folded events. The cache ignores an event with an
  earlier time. Both times come from the engine, so no two clocks are compared. When the engine's clock is
  set back, the cache may ignore events wrongly; the inspection after every burst of events corrects the
  facts.
- An inspection may be ahead of the events: it shows a run before the run's start event arrived. Taking
  such an inspection would lose the end of the previous run with its exit code. `is_ahead` detects the case,
  and the caller inspects again after the missing events.
- A destroyed container cannot come back: late events find no cached facts, and inspections find no container.
"""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager.values import replace

from hostmanager_server.drivers.compose.engine.container import Container

# s between the event of a kill for lack of memory and the end that the kill causes (0.1 s observed)
_OOM_TO_END = 10.0


class ContainerCache:
    """The newest facts of every container.

    Methods that fold return the containers to notify the listener of, in order.
    """

    def __init__(self) -> None:
        self._known: dict[str, Container] = {}
        self._versions: dict[str, float] = {}
        self._oom_times: dict[str, float] = {}  # latest oom events, by container id

    def get(self, container_id: str) -> Container | None:
        """Return the cached facts of a container, or None for an unknown id."""
        return self._known.get(container_id)

    def add(self, containers: Iterable[Container]) -> None:
        """Add containers, all just inspected."""
        for container in containers:
            self._store(container)

    def all(self) -> tuple[Container, ...]:
        """Return the cached facts of every container."""
        return tuple(self._known.values())

    def keep_projects(self, projects: frozenset[str]) -> None:
        """Forget the containers of all other projects."""
        for known in self.all():
            if known.project not in projects:
                self.remove(known.id)

    def ids_of_project(self, project: str) -> set[str]:
        """Return the ids of the cached containers of a compose project."""
        return {known.id for known in self._known.values() if known.project == project}

    def fold_end(self, container_id: str, exit_code: int, at: float) -> tuple[Container, ...]:
        """Fold a die event of time `at` (s since 1970, engine's clock)."""
        known = self._known.get(container_id)
        # The end of a stopped container came from an inspection before, with its exact time.
        if known is None or not known.running or at < self._versions[container_id]:
            return ()
        oom_at = self._oom_times.get(container_id, 0.0)
        oom = exit_code != 0 and oom_at >= max(known.started or 0.0, at - _OOM_TO_END)
        ended = replace(
            known, running=False, status="exited", exit_code=exit_code, finished=at, pid=0, health="",
            oom_killed=oom,
        )  # fmt: skip
        return self._store(ended, at)

    def fold_oom(self, container_id: str, at: float) -> None:
        """Fold an oom event of time `at` (s since 1970, engine's clock)."""
        if container_id in self._known:
            self._oom_times[container_id] = at

    def fold_start(self, inspected: Container, at: float) -> tuple[Container, ...]:
        """Apply a start event of time `at` (s since 1970, engine's clock).

        The inspection was made after the event.
        """
        known = self._known.get(inspected.id)
        if known is not None and at < self._versions[inspected.id]:
            return ()
        if known is not None and known.started == inspected.started:
            return self.fold_inspection(inspected)
        # The engine sends the event after the start: a start later than the event is another start.
        same_run = inspected.started is not None and inspected.started <= at
        if not same_run and known is not None and known.running:
            return ()  # the event belongs to the cached run; the caller repeats the inspection
        if same_run and inspected.running:
            return self._store(inspected, at)
        # The run of this event has ended already. A later event reports the end, so fold only the start.
        begin = inspected.started if same_run and inspected.started is not None else at
        return self._store(_new_run(inspected, begin, known.finished if known is not None else None), at)

    def fold_start_without_inspection(self, container_id: str, at: float) -> tuple[Container, ...]:
        """Apply a start event of time `at` (s since 1970) when the inspection failed."""
        known = self._known.get(container_id)
        if known is None:
            self._versions[container_id] = at  # inspections from here on are not ahead of this event
            return ()
        # A cached running container is in this very run: an inspection came before the event.
        if known.running or at < self._versions[container_id]:
            return ()
        return self._store(_new_run(known, at, known.finished), at)

    def is_ahead(self, inspected: Container) -> bool:
        """Return whether an inspection shows a newer run before the last end's event."""
        version = self._versions.get(inspected.id)
        if version is None:
            return inspected.started is not None  # an unlisted container is new: its start event will come
        return (
            self._is_another_run(inspected)
            and inspected.finished is not None
            and inspected.finished > version
        )

    def fold_inspection(self, inspected: Container) -> tuple[Container, ...]:
        """Fold an inspection made just now."""
        known = self._known.get(inspected.id)
        if known is not None and not self._is_another_run(inspected):
            if not known.running:  # the events told more of the end than the engine's flag
                inspected = replace(inspected, oom_killed=known.oom_killed)
            # Times from events are close, not exact: a correction alone needs no notification.
            known = replace(known, started=inspected.started, finished=inspected.finished)
            if known == inspected:
                self._store(inspected)
                return ()
        return self._store(inspected)

    def remove(self, container_id: str) -> bool:
        """Forget a removed container; return whether the cache knew the container."""
        self._versions.pop(container_id, None)
        self._oom_times.pop(container_id, None)
        return self._known.pop(container_id, None) is not None

    def _is_another_run(self, inspected: Container) -> bool:
        version = self._versions.get(inspected.id)
        return version is not None and inspected.started is not None and inspected.started > version

    def _store(self, container: Container, at: float = 0.0) -> tuple[Container, ...]:
        # Without the old version: a version from before the clock was set back would outlive its run.
        self._known[container.id] = container
        self._versions[container.id] = max(at, container.started or 0.0, container.finished or 0.0)
        return (container,)


def _new_run(container: Container, started: float, finished: float | None) -> Container:
    """Return the facts of a run known by its start alone.

    `finished` is the end of the run before.
    """
    return replace(
        container,
        running=True,
        status="running",
        exit_code=0,
        started=started,
        finished=finished,
        pid=0,
        health="",
        oom_killed=False,
    )
