"""The contract between the supervisor and its drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.events import Adopted, DriverEvent, Instant, RunKey
from hostmanager_server.core.spec import InstanceSpec, LogPolicy

PostEvent = Callable[[DriverEvent], None]
CallSoon = Callable[[Callable[[], None]], None]


class Timer(Protocol):
    def cancel(self) -> None:
        """Never call back. A second call changes nothing."""


class Poller(Protocol):
    """The supervisor's one wait, as drivers see it. To be called on the supervisor thread only."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` once each time `fd` turns readable or hangs up, until `unwatch`."""

    def unwatch(self, fd: int) -> None:
        """Stop watching; the caller closes the descriptor afterwards. Unknown descriptors are ignored."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, `seconds` from now."""

    def now(self) -> Instant:
        """This moment."""


class Driver(Protocol):
    """Carries out what the core decides. Called on the supervisor thread; every call returns at once.

    What comes of a call arrives as events: for each launch either one StartFailed, or Started, then Ready
    when it is ready, and in the end Exited and Gone, in this order. Events may be posted from inside the
    call.
    """

    def follow(self, spec: InstanceSpec) -> None:
        """An instance is tracked with this spec from now on, be it new or another than before. A driver of
        services that run by themselves posts what it knows of it: Seen or Unobservable, and Appeared when it
        runs."""

    def forget(self, spec: InstanceSpec) -> None:
        """The instance is tracked no more: post nothing about it from now on. What runs goes on running."""

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        """Start a run; or, when that run is Degraded, what is missing of it, which ends in Ready or Degraded.
        Never raises for what the spec or the system does wrong: StartFailed says it."""

    def stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        """Send a signal to the main process, or to the whole tree. With SIGKILL to the whole tree the
        driver goes on until nothing of it is left, or says StopFailed. A run that is gone or unknown is
        ignored."""

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        """Take back the verified runs of an earlier daemon, those that ended meanwhile among them; `specs` is
        what the config says of instances, by id. Called once, before any launch. What is seen of them is
        posted after this has returned. Raises OSError when it cannot be known what runs; nothing is changed
        then."""

    def disown(self) -> None:
        """Let go of every run without stopping it; post nothing more. The next daemon adopts them."""

    def close(self) -> None:
        """Release what the driver holds. To be called when nothing runs any more, or after disown."""


class ServiceDriver(Driver, Protocol):
    """A driver of compose services, which also knows which of them there are to be."""

    def load(self) -> Catalog:
        """What the managed compose files say now. Slow, and to be called on one thread at a time, any but
        the supervisor's. Never raises for what is in the files: the catalog says what is wrong."""

    def manage(self, catalog: Catalog) -> None:
        """The services of this catalog are the managed ones from now on. On the supervisor thread, before
        instances with these services are followed."""


class ServiceListener(Protocol):
    """Who is told of what concerns no single instance. Called on the supervisor thread."""

    def surveyed(self, survey: Survey) -> None:
        """Orphans, new tags, or the engine's presence, are others than before."""

    def files_changed(self) -> None:
        """A compose file, or a file that one of them reads, was changed: load the catalog anew."""


class Output(Protocol):
    """Where agents write to."""

    def open_for_append(self, instance_id: str, policy: LogPolicy) -> int:
        """An append-mode, close-on-exec descriptor of the instance's output file, for the caller to close.

        Raises OSError; RefusedFileError for a file or directory that must not be used.
        """

    def forget(self, instance_id: str, policy: LogPolicy) -> None:
        """Look after the output file no longer: the instance is not managed any more."""

    def resume(self, instance_id: str, policy: LogPolicy) -> None:
        """Look after the output file of a process that an earlier daemon started. Returns at once."""
