"""Protocols between the supervisor and its drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.events import Adopted, DriverEvent, Instant, RunKey
from hostmanager_server.core.spec import InstanceSpec, LogPolicy
from hostmanager_server.drivers.output.stream import OutputMark

PostEvent = Callable[[DriverEvent], None]
# Runs a callable on the supervisor thread; may be called from any thread.
CallSoon = Callable[[Callable[[], None]], None]
# Receives why an action failed, or the empty string, on the supervisor thread.
Done = Callable[[str], None]


class Timer(Protocol):
    """A pending call of `Poller.call_later`."""

    def cancel(self) -> None:
        """Prevent the call; a second cancel changes nothing."""


class Poller(Protocol):
    """The supervisor's event loop, as drivers see it; for the supervisor thread only."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` each time `fd` becomes readable or hangs up, until `unwatch`."""

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor; ignore unknown ones.

        The caller closes the descriptor afterwards.
        """

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, `seconds` from now; the returned timer cancels the call."""

    def now(self) -> Instant:
        """Return the present time."""


class Driver(Protocol):
    """The means of carrying out the core's decisions for one kind of workload.

    The supervisor calls every method on its own thread, and every method returns at once. Outcomes arrive
    as events: for each launch either one StartFailed, or Started, then Ready when the run is ready, and
    finally Exited and Gone, in this order. A driver may post events from inside a call.
    """

    def follow(self, spec: InstanceSpec) -> None:
        """Track an instance, new or known, with this spec; return at once, raise nothing.

        A driver of services that run without the daemon also posts the present state of the service:
        ServiceObserved or Unobservable, and Appeared when the service runs.
        """

    def forget(self, spec: InstanceSpec) -> None:
        """Stop posting events of an instance; return at once, raise nothing.

        A running process or container keeps running.
        """

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        """Start a run; return once the start is requested, raise nothing.

        Errors in the spec and failures of the system arrive as StartFailed. For a run that is Degraded, the
        driver starts the missing parts, and posts Ready or Degraded afterwards.
        """

    def stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        """Signal the main process or the whole tree; return at once, raise nothing.

        With SIGKILL to the whole tree the driver repeats the signal until no process is left, or posts
        StopFailed. The driver ignores runs that are gone or unknown.
        """

    def signal(self, run: RunKey, signum: int, *, whole_tree: bool, done: Done) -> None:
        """Send one signal on behalf of an operator; return at once, raise nothing.

        The signal reaches only verified processes of the run: the main process, or, with `whole_tree`, all
        that are alive. The driver calls `done` once, perhaps from inside the call.
        """

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        """Take over the runs of an earlier daemon and return them, ended ones included.

        The driver verifies each run.

        The supervisor calls `adopt` once, before any launch. `specs` holds the configured instances by id.
        The driver posts events of the adopted runs only after the call has returned.

        Raises OSError when the driver cannot find out which runs are alive; nothing has changed then.
        """

    def disown(self) -> None:
        """Release every run without stopping a process; return at once, raise nothing.

        The driver posts nothing more.

        The next daemon adopts the runs.
        """

    def close(self) -> None:
        """Release all resources of the driver; raise nothing.

        Call `close` when no run is left, or after `disown`.
        """


class ServiceDriver(Driver, Protocol):
    """A driver of compose services, which also reads the files that define them."""

    def load(self) -> Catalog:
        """Return the catalog of the managed compose files; slow, and raises nothing.

        The catalog reports errors in the files. Call `load` on one thread at a time, never on the
        supervisor's.
        """

    def owns(self, run: RunKey) -> bool:
        """Return whether the run is one of the driver's."""

    def manage(self, catalog: Catalog) -> None:
        """Manage the services of this catalog from now on; return at once, raise nothing.

        The supervisor calls `manage` on its own thread, before `follow` for instances with these services.
        """


class ServiceListener(Protocol):
    """The receiver of notifications that concern no single instance.

    The driver notifies on the supervisor thread.
    """

    def surveyed(self, survey: Survey) -> None:
        """Accept the new survey: orphans, image tags or the engine's presence changed."""

    def files_changed(self) -> None:
        """Schedule a reload of the catalog: a compose file, or an included file, changed."""


class Output(Protocol):
    """The files that receive the output of agents."""

    def open_for_append(self, instance_id: str, policy: LogPolicy) -> int:
        """Open the output file of an instance for appending and return the descriptor.

        The caller closes the descriptor.

        The descriptor is in append mode and close-on-exec. Raises OSError; RefusedFileError for a file or
        directory that the daemon must not use.
        """

    def forget(self, instance_id: str, policy: LogPolicy) -> None:
        """Stop maintaining the output file of an unmanaged instance; return at once."""

    def resume(self, instance_id: str, policy: LogPolicy) -> None:
        """Maintain the output file of a process of an earlier daemon; return at once."""

    def mark(self, instance_id: str, policy: LogPolicy, fd: int) -> OutputMark:
        """Return where a run begins that gets this open file; call before the start."""

    def resume_mark(
        self, instance_id: str, policy: LogPolicy, recorded: OutputMark | None
    ) -> OutputMark | None:
        """Return where the run of an earlier daemon begins; None if unknown. Raises nothing."""

    def last_output(self, instance_id: str, policy: LogPolicy, mark: OutputMark | None) -> str:
        """Return the last lines of a run, bounded and printable; return at once, raise nothing."""
