"""A followed compose service: what its containers do, told as the runs of an instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hostmanager_server.core.compose import UNKNOWN_IMAGE, ServiceStatus
from hostmanager_server.core.events import (
    Appeared,
    Degraded,
    DriverEvent,
    Exited,
    ExitStatus,
    Gone,
    Instant,
    Ready,
    RunKey,
    ServiceObserved,
    Started,
    StartFailed,
    StopFailed,
    Unobservable,
)
from hostmanager_server.core.spec import InstanceSpec, ServiceSpec
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.contract import PostEvent

Key = tuple[str, str]  # project, service

# Begins to ask whether it is ready; calls back when it is. Returns what ends the asking.
StartProbe = Callable[[InstanceSpec, Callable[[], None]], Callable[[], None]]


class FollowedService:
    """The containers of one service, seen as one run after another.

    The run begins with the first container that runs and is over when none does. `look` draws the
    conclusions of what there is now; calls of compose that are under way are told it by `launched`,
    `stopping` and their ends. Belongs to the supervisor thread.
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
        self._number = 0
        self._launching = False
        self._told = False  # that it runs
        self._whole = False  # every replica runs, and that was told
        self._ended = False  # that it ended was told, and that it is gone was not
        self._before: frozenset[tuple[str, float | None]] = frozenset()
        self._containers: tuple[Container, ...] = ()
        self._record: ServiceStatus | None = None
        self._cancel_probe: Callable[[], None] | None = None

    @property
    def key(self) -> Key:
        return self.wanted.project, self.wanted.service

    @property
    def containers(self) -> tuple[Container, ...]:
        return self._containers

    @property
    def running(self) -> bool:
        return any(container.running for container in self._containers)

    @property
    def restarting(self) -> bool:
        """Nothing of it runs, and the engine is about to start a container again by itself."""
        return not self.running and any(container.restarting for container in self._containers)

    @property
    def waits_for_compose(self) -> bool:
        """It was asked to start, and nothing of it has been seen to run."""
        return self._launching and not self._told

    def now_is(self, spec: InstanceSpec, wanted: ServiceSpec) -> None:
        """It is tracked with this from now on. Whoever asks may know nothing of it yet: tell all again."""
        self.spec, self.wanted = spec, wanted
        self._record = None

    # --- what is seen

    def out_of_sight(self, why: str) -> None:
        """What it does cannot be known."""
        self._record = None
        self._post(Unobservable(self.spec.instance_id, why))

    def look(self, containers: Sequence[Container], image_id: str) -> None:
        """These are its containers now, and what the image tag that it wants means."""
        self._containers = tuple(sorted(containers, key=lambda c: (c.number, c.name)))
        record = record_of(self.wanted, self._containers, image_id)
        if record != self._record:
            self._record = record
            self._post(ServiceObserved(self.spec.instance_id, record))
        running = [container for container in self._containers if container.running]
        if running:
            self._seen_running(running)
        elif self._told:
            self._seen_ended()

    def _seen_running(self, running: list[Container]) -> None:
        first = min(running, key=lambda c: c.started or 0.0)
        if self.run is None:
            self._number += 1
            self.run = RunKey(self.spec.instance_id, self._number)
            self._told = self._whole = True
            self._post(Appeared(self.run, first.pid, self._at(first.started)))
        elif not self._told:
            self._told = True
            self._post(Started(self.run, first.pid, self._at(first.started)))
        if len(running) >= self.wanted.replicas:
            self._become_whole()
        elif self._whole:
            lost = self._last_ended()
            status = ExitStatus(code=lost.exit_code) if lost is not None else None
            self._become_degraded(self._part(), status, self._at(lost.finished if lost else None))

    def _become_whole(self) -> None:
        if self._whole or self._cancel_probe is not None:
            return
        run = self.run
        assert run is not None

        def ready() -> None:
            self._cancel_probe = None
            self._whole = True
            self._post(Ready(run, self._now()))

        if self.spec.ready is None or not self._launching:
            ready()
        else:
            self._cancel_probe = self._probe(self.spec, ready)

    def _become_degraded(self, why: str, status: ExitStatus | None, at: Instant) -> None:
        assert self.run is not None
        self._whole = False
        self._post(Degraded(self.run, why, status, at))

    def _seen_ended(self) -> None:
        assert self.run is not None
        if not self._ended:
            self._ended = True
            self._end_probe()
            last = self._last_ended()
            status = ExitStatus(code=last.exit_code) if last is not None else ExitStatus()
            self._post(Exited(self.run, status, self._at(last.finished if last is not None else None)))
        if not self.stopping:  # else there is something to be removed yet
            self._gone()

    def _gone(self) -> None:
        assert self.run is not None
        run = self.run
        self._forget_run()
        self._post(Gone(run, self._now()))

    # --- what is asked of compose

    def launched(self, run: RunKey) -> None:
        """It is to be started, or what is missing of it, under this run's number."""
        self._number = max(self._number, run.number)
        if self.run != run:
            self._forget_run()
        self.run = run
        self._launching = True
        self._before = frozenset((c.id, c.started) for c in self._containers)

    def about_to_restart(self, run: RunKey) -> None:
        """It is to be stopped before the engine starts it again, under this run's number."""
        self._number = max(self._number, run.number)
        self.run = run
        self._told = True

    def launch_ended(self, run: RunKey, error: str) -> None:
        """Compose is through with it, and all that came of that was seen."""
        if self.run != run or not self._launching:
            return
        self._launching = False
        if not self._told:
            ran = [c for c in self._containers if c.started and (c.id, c.started) not in self._before]
            if ran and not self.running:  # and had ended before anybody saw it run
                self._told = True
                self._post(Started(run, 0, self._at(ran[-1].started)))
                self._seen_ended()
            else:
                why = error or "compose reports success, but no container of it runs"
                self.refused(run, why + self._image_missing(why))
        elif not self._whole and self._cancel_probe is None and self.running:
            self._become_degraded(f"{self._part()}: {error}" if error else self._part(), None, self._now())

    def refused(self, run: RunKey, why: str) -> None:
        """The launch came to nothing, and nothing of it runs."""
        if self.run == run:
            self._forget_run()
        message = f"cannot start {self.spec.instance_id!r}: {why}"
        self._post(StartFailed(run, message, self._now()))

    def stop_ended(self, error: str) -> None:
        """Compose is through with stopping and removing it, and all that came of that was seen."""
        self.stopping = False
        if self.run is None:
            return
        if self.running or (error and self.restarting):
            why = error or "compose reports success, but a container of it still runs"
            self._post(StopFailed(self.run, f"cannot stop {self.wanted.service!r}: {why}", self._now()))
        elif self._told:
            self._seen_ended()
        elif not self._launching:
            self.refused(self.run, "stopped before it ran")

    def close(self) -> None:
        """Tell nothing more of it, whatever a call that is under way comes to."""
        self._end_probe()
        self._post = _tell_nobody

    # --- pieces

    def _forget_run(self) -> None:
        self._end_probe()
        self.run = None
        self.stopping = self._launching = self._told = self._whole = self._ended = False

    def _end_probe(self) -> None:
        if self._cancel_probe is not None:
            self._cancel_probe()
            self._cancel_probe = None

    def _part(self) -> str:
        running = sum(container.running for container in self._containers)
        return f"{running} of {self.wanted.replicas} containers run"

    def _image_missing(self, why: str) -> str:
        """What the engine's word about an image that it cannot get may leave out: which image."""
        image = self.wanted.image
        unknown = self._record is not None and self._record.image_id == UNKNOWN_IMAGE
        if self.wanted.built or not unknown or image in why:
            return ""
        return f"; image {image!r} is not there: pull it, or correct the compose file"

    def _last_ended(self) -> Container | None:
        ended = [c for c in self._containers if not c.running and c.finished is not None]
        return max(ended, key=lambda c: c.finished or 0.0, default=None)

    def _at(self, wall: float | None) -> Instant:
        """A moment that the engine told, on both clocks. One that lies ahead is an error of a clock."""
        now = self._now()
        return now if wall is None else now.plus(min(0.0, wall - now.wall))


def _tell_nobody(event: DriverEvent) -> None:
    """The instance is followed no more; another of its name may be, whose events these are not."""


def record_of(wanted: ServiceSpec, containers: Sequence[Container], image_id: str) -> ServiceStatus:
    """OCS's record of a service: one container, that of the first replica that runs, stands for all."""
    running = [container for container in containers if container.running]
    if not containers:
        return ServiceStatus(image_id=image_id)
    shown = running[0] if running else max(containers, key=lambda c: c.finished or 0.0)
    return ServiceStatus(
        image_id=image_id,
        container_id=shown.id,
        container_name=shown.name,
        running=shown.running,
        running_image=shown.image,
        exit_code=shown.exit_code,
        status=shown.status,
        health=shown.health,
        pid=shown.pid,
        running_replicas=len(running),
        container_ids=tuple(container.id for container in containers),
        definition_changed=any(_definition_differs(wanted, c) for c in running),
        restarting=not running and any(c.restarting for c in containers),
    )


def differs(wanted: ServiceSpec, container: Container, image_id: str) -> bool:
    """Whether a container made anew would be another than this one."""
    return container.image != image_id or _definition_differs(wanted, container)


def _definition_differs(wanted: ServiceSpec, container: Container) -> bool:
    known = bool(wanted.config_hash and container.config_hash)
    return known and container.config_hash != wanted.config_hash
