"""Followed compose services: container states as runs of an instance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hostmanager_server.core.compose import UNKNOWN_IMAGE, ServiceStatus
from hostmanager_server.core.events import (
    Appeared,
    Cleared,
    Degraded,
    DriverEvent,
    Exited,
    ExitStatus,
    Gone,
    Instant,
    Outdated,
    Ready,
    Renewed,
    RunKey,
    ServiceObserved,
    StartDelayed,
    Started,
    StartFailed,
    StopFailed,
    Unobservable,
)
from hostmanager_server.core.spec import InstanceSpec, ServiceSpec
from hostmanager_server.drivers.compose.content_baselines import ContentBaselines
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.service_containers import Key
from hostmanager_server.drivers.compose.service_status import status_of
from hostmanager_server.drivers.contract import PostEvent

# Starts a readiness probe, which calls back when the service is ready. Returns a function that ends the
# probe.
StartProbe = Callable[[InstanceSpec, Callable[[], None]], Callable[[], None]]


class FollowedService:
    """The containers of one service, as a sequence of runs.

    A run begins with the first running container and ends when no container runs. `update` derives events
    from the present containers. The methods `begin_launch` to `finish_stop` report calls of compose. Belongs
    to the supervisor thread.
    """

    def __init__(
        self, spec: InstanceSpec, post: PostEvent, now: Callable[[], Instant], probe: StartProbe
    ) -> None:
        assert spec.service is not None
        self.spec = spec
        self.wanted: ServiceSpec = spec.service
        self.run: RunKey | None = None
        self.stopping = False
        self._post = post
        self._now = now
        self._probe = probe
        self._run_number = 0
        self._launching = False
        self._running_posted = False  # Appeared or Started was posted
        self._complete = False  # every replica runs, and an event was posted for that
        self._end_posted = False  # Exited was posted, Gone was not
        self._clearing = False  # the run stands for the removal of containers that do not run
        self._delay = ""  # why the launch waits, as posted last
        self._containers_before: frozenset[tuple[str, float | None]] = frozenset()
        self._containers: tuple[Container, ...] = ()
        self._baselines = ContentBaselines()
        self._status: ServiceStatus | None = None
        self._cancel_probe: Callable[[], None] | None = None

    @property
    def key(self) -> Key:
        """The compose project and the service name."""
        return self.wanted.project, self.wanted.service

    @property
    def containers(self) -> tuple[Container, ...]:
        """All containers of the service, by replica number."""
        return self._containers

    @property
    def running(self) -> bool:
        """Whether any container runs."""
        return any(container.running for container in self._containers)

    @property
    def restarting(self) -> bool:
        """Whether no container runs, but the engine is about to restart one."""
        return not self.running and any(container.restarting for container in self._containers)

    @property
    def stop_grace(self) -> float:
        """How long (s) the engine may wait for the end of a container before KILL.

        The engine uses the time of the container, which may be older than the compose file.
        """
        graces = [self.wanted.stop_grace]
        graces += [c.stop_timeout for c in self._containers if c.stop_timeout is not None]
        return math.inf if min(graces) < 0 else max(graces)

    @property
    def waits_for_compose(self) -> bool:
        """Whether a launch was requested and no container has run since."""
        return self._launching and not self._running_posted

    @property
    def ready_run(self) -> RunKey | None:
        """The run, once every replica runs and the readiness probe, if any, has succeeded; else None."""
        return self.run if self._complete and self._running_posted and not self._end_posted else None

    def respecify(self, spec: InstanceSpec, wanted: ServiceSpec) -> None:
        """Take a new spec and definition, and post all facts again.

        The core may have a fresh instance, without any facts.
        """
        self.spec, self.wanted = spec, wanted
        self._status = None

    # --- observations

    def mark_unobservable(self, why: str) -> None:
        """Report that the state of the service is unknown, with the reason."""
        self._status = None
        self._post(Unobservable(self.spec.instance_id, why))

    def update(self, containers: Sequence[Container], image_id: str) -> None:
        """Post the events that follow from the present containers.

        `image_id` is the image of the wanted tag.
        """
        self._containers = tuple(sorted(containers, key=lambda c: (c.number, c.name)))
        contents_differ = self._baselines.differs(self.wanted, self._containers)
        status = status_of(self.wanted, self._containers, image_id, contents_differ=contents_differ)
        if status != self._status:
            self._status = status
            self._post(ServiceObserved(self.spec.instance_id, status))
        running = [container for container in self._containers if container.running]
        if running:
            self._observe_running(running)
        elif self._running_posted:
            self._observe_end()

    def _observe_running(self, running: list[Container]) -> None:
        first = min(running, key=lambda c: c.started or 0.0)
        if self.run is None:
            self._run_number += 1
            self.run = RunKey(self.spec.instance_id, self._run_number)
            self._running_posted = self._complete = True
            self._post(Appeared(self.run, first.pid, self._instant(first.started)))
        elif not self._running_posted:
            self._running_posted = True
            self._post(Started(self.run, first.pid, self._instant(first.started)))
        if len(running) >= self.wanted.replicas:
            self._await_readiness()
        elif self._complete:
            lost = self._last_ended()
            status = _exit_status(lost) if lost is not None else None
            self._post_degraded(self._running_count(), status, self._instant(lost.finished if lost else None))

    def _await_readiness(self) -> None:
        if self._complete or self._cancel_probe is not None:
            return
        run = self.run
        assert run is not None

        def ready() -> None:
            self._cancel_probe = None
            self._complete = True
            self._post(Ready(run, self._now()))

        if self.spec.ready is None or not self._launching:
            ready()
        else:
            self._cancel_probe = self._probe(self.spec, ready)

    def _post_degraded(self, why: str, status: ExitStatus | None, at: Instant) -> None:
        assert self.run is not None
        self._complete = False
        self._post(Degraded(self.run, why, status, at))

    def _observe_end(self) -> None:
        assert self.run is not None
        if not self._end_posted:
            self._end_posted = True
            self._end_probe()
            last = self._last_ended()
            status = _exit_status(last) if last is not None else ExitStatus()
            self._post(Exited(self.run, status, self._instant(last.finished if last is not None else None)))
        if not self.stopping:  # compose may still have to remove the containers
            self._post_gone()

    def _post_gone(self) -> None:
        assert self.run is not None
        run = self.run
        self._forget_run()
        self._post(Gone(run, self._now()))

    # --- calls of compose

    def begin_launch(self, run: RunKey) -> None:
        """Note that compose will start the service, or its missing containers."""
        self._run_number = max(self._run_number, run.number)
        if self.run != run:
            self._forget_run()
        self.run = run
        self._launching = True
        self._containers_before = frozenset((c.id, c.started) for c in self._containers)

    def is_new(self, run: RunKey) -> bool:
        """Return whether the core has made up a run, to have leftover containers removed."""
        return self.run is None and run.number > self._run_number

    def begin_removal(self, run: RunKey) -> None:
        """Note that compose will remove containers that do not run, under the number of `run`."""
        self._run_number = max(self._run_number, run.number)
        self.run = run
        self._running_posted = self.restarting
        self._clearing = not self.restarting

    def delay_launch(self, run: RunKey, why: str) -> None:
        """Report what the launch waits for; an empty `why` ends the wait."""
        if self.run == run and self._launching and why != self._delay:
            self._delay = why
            self._post(StartDelayed(run, why))

    def abandon_launch(self) -> None:
        """Note that compose and the engine start no further container of the service."""
        self._launching = False

    def report_renewal(self, run: RunKey, why: str) -> None:
        """Report that the launch replaces a container."""
        if self.run == run:
            self._post(Renewed(run, why))

    def report_outdated(self, why: str) -> None:
        """Report that the present run must restart, because a service that the run builds upon did."""
        if self.run is not None and not self.stopping and self._running_posted:
            self._post(Outdated(self.run, why))

    def finish_launch(self, run: RunKey, error: str) -> None:
        """Conclude a launch after compose has ended and the engine watch is up to date.

        `error` says why compose failed; empty: success.
        """
        if self.run != run or not self._launching:
            return
        self._launching = False
        if not self._running_posted:
            ran = [
                c for c in self._containers if c.started and (c.id, c.started) not in self._containers_before
            ]
            if ran and not self.running:  # the run ended before an inspection showed it
                self._running_posted = True
                self._post(Started(run, 0, self._instant(ran[-1].started)))
                self._observe_end()
            else:
                why = error or "compose reports success, but no container of the service runs"
                self.fail_launch(run, why + self._missing_image_hint(why))
        elif not self._complete and self._cancel_probe is None and self.running:
            self._post_degraded(
                f"{self._running_count()}: {error}" if error else self._running_count(), None, self._now()
            )

    def fail_launch(self, run: RunKey, why: str) -> None:
        """Post that the launch failed and nothing of the run is left."""
        if self.run == run:
            self._forget_run()
        message = f"cannot start {self.spec.instance_id!r}: {why}"
        self._post(StartFailed(run, message, self._now()))

    def finish_stop(self, error: str) -> None:
        """Conclude a stop after compose has ended and the engine watch is up to date.

        `error` says why compose failed; empty: success.
        """
        self.stopping = False
        if self.run is None:
            return
        if self.running or (error and self.restarting):
            why = error or "compose reports success, but a container still runs"
            self._post(StopFailed(self.run, f"cannot stop {self.wanted.service!r}: {why}", self._now()))
        elif self._clearing and (error or self._containers) and not self._running_posted:
            why = error or "compose reports success, but a container is left"
            self._post(StopFailed(self.run, f"cannot remove {self.wanted.service!r}: {why}", self._now()))
        elif self._clearing and not self._running_posted:
            run = self.run
            self._forget_run()
            self._post(Cleared(run))
        elif self._running_posted:
            self._observe_end()
        elif not self._launching:
            self.fail_launch(self.run, "stopped before any container ran")

    def close(self) -> None:
        """Post no further events, also when a running call of compose ends."""
        self._end_probe()
        self._post = _discard

    # --- steps

    def _forget_run(self) -> None:
        self._end_probe()
        self.run = None
        self.stopping = self._launching = self._running_posted = self._complete = self._end_posted = False
        self._clearing = False
        self._delay = ""

    def _end_probe(self) -> None:
        if self._cancel_probe is not None:
            self._cancel_probe()
            self._cancel_probe = None

    def _running_count(self) -> str:
        running = sum(container.running for container in self._containers)
        return f"{running} of {self.wanted.replicas} containers run"

    def _missing_image_hint(self, why: str) -> str:
        """Return a hint that names a missing image, unless `why` names the image."""
        image = self.wanted.image
        unknown = self._status is not None and self._status.image_id == UNKNOWN_IMAGE
        if self.wanted.built or not unknown or image in why:
            return ""
        return f"; image {image!r} does not exist: pull it, or correct the compose file"

    def _last_ended(self) -> Container | None:
        ended = [c for c in self._containers if not c.running and c.finished is not None]
        return max(ended, key=lambda c: c.finished or 0.0, default=None)

    def _instant(self, wall: float | None) -> Instant:
        """Convert an engine time (s since 1970) to an instant on both clocks.

        A time in the future is an error of a clock, and becomes the present.
        """
        now = self._now()
        return now if wall is None else now.plus(min(0.0, wall - now.wall))


def _exit_status(container: Container) -> ExitStatus:
    return ExitStatus(container.exit_code, out_of_memory=container.oom_killed)


def _discard(event: DriverEvent) -> None:
    """Discard an event of an instance that is no longer followed.

    Another instance may have the same name by now.
    """
