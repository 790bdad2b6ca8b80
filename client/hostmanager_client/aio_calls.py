"""The unary calls of the asyncio client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client import calls
from hostmanager_client.calls import EventListing, Listing, Response, TargetRequests, UnaryCall
from hostmanager_client.event_filter import event_filter
from hostmanager_client.state import HostState, make_state

if TYPE_CHECKING:
    from typing import Unpack

    from hostmanager_client.event_filter import EventFilter


class AsyncCalls:
    """Unary calls that need nothing of a client but the way to carry out one call."""

    async def _call(self, call: UnaryCall[Response]) -> Response:
        raise NotImplementedError  # each client has its own

    async def get_status(self) -> pb.GetStatusResponse:
        """Return the manager and the states of all instances, as one consistent snapshot."""
        return await self._call(calls.get_status())

    async def list_instances(self, instance_ids: Iterable[str] = (), *, failing: bool = False) -> Listing:
        """Return full details of the named instances, or of all; raise NotFound for unknown ids.

        `failing`: only of those that are failing.
        """
        pages = calls.InstancePages(instance_ids, failing=failing)
        while (call := pages.next_call()) is not None:
            pages.received(await self._call(call))
        return pages.result()

    async def get_instance(self, instance_id: str) -> pb.ManagedInstance:
        """Return full details of one instance; raise NotFound if the daemon has no such id."""
        return (await self._call(calls.get_instance(instance_id))).instance

    async def get_usage(
        self, instance_ids: Iterable[str] = (), *, failing: bool = False, window: float = 0.0
    ) -> pb.GetUsageResponse:
        """Return what the named instances (or all) use: CPU, memory, tasks and descriptors.

        `window`: time in s between two measurements, from which `cpu` follows, up to 10; 0 for one without.
        """
        return await self._call(calls.get_usage(instance_ids, failing=failing, window=window))

    async def get_state(self, instance_ids: Iterable[str] = (), *, failing: bool = False) -> HostState:
        """Return the manager and the named instances (or all), as a state that `watch` can resume.

        `failing`: only the failing ones.
        """
        status = await self.get_status()
        listing = await self.list_instances(instance_ids, failing=failing)
        return make_state(status, listing.instances, listing.revision)

    async def explain(self, instance_ids: Iterable[str] = ()) -> pb.ExplainResponse:
        """Return why the named instances, or all that are not as wanted, are where they are.

        Each explanation has the last ends, the last working run, the changes before, and what to try.
        """
        return await self._call(calls.explain(instance_ids))

    async def update(
        self,
        changes: TargetRequests = (),
        *,
        reload_config: bool = False,
        validate_only: bool = False,
        with_dependencies: bool = False,
        failing: bool = False,
        reason: str = "",
    ) -> pb.UpdateResponse:
        """Set targets in order, all or none.

        `{"all": UP, "data1": DOWN}` brings every instance up except data1. `reload_config`: read the site
        config first. `validate_only`: only check the request. `with_dependencies`: also start dependencies.
        `failing`: change failing instances only. `reason`: why, for the events and the status.
        """
        call = calls.update(
            changes,
            reload_config=reload_config,
            validate_only=validate_only,
            with_dependencies=with_dependencies,
            failing=failing,
            reason=reason,
        )
        return await self._call(call)

    async def restart(
        self,
        instance_ids: Sequence[str] = (),
        *,
        all_up: bool = False,
        failing: bool = False,
        reason: str = "",
    ) -> pb.RestartResponse:
        """Stop and start instances without a change of their targets.

        `all_up`: restart every instance with target up, instead of the named ones. `failing`: restart failing
        instances only, or all of them if none is named.
        """
        return await self._call(calls.restart(instance_ids, all_up=all_up, failing=failing, reason=reason))

    async def signal(
        self, instance_id: str, signal: str | int, *, whole_tree: bool = False, reason: str = ""
    ) -> pb.SignalResponse:
        """Send a signal, such as "HUP", to the main process of an instance, or to its whole tree."""
        return await self._call(calls.signal(instance_id, signal, whole_tree=whole_tree, reason=reason))

    async def hold(
        self, instance_ids: Iterable[str], seconds: float | None = None, *, reason: str = ""
    ) -> pb.HoldResponse:
        """Let the daemon neither start nor restart instances for some s; None: until their release."""
        return await self._call(calls.hold(instance_ids, seconds, reason))

    async def release(
        self, instance_ids: Iterable[str] = (), *, all_held: bool = False
    ) -> pb.ReleaseResponse:
        """End holds before their time; `all_held`: every hold."""
        return await self._call(calls.release(instance_ids, all_held=all_held))

    async def start_manager(
        self, changes: TargetRequests = (), *, reload_config: bool = True, reason: str = ""
    ) -> pb.StartManagerResponse:
        """Start the manager, then apply the changes of targets in order.

        Raises PreconditionFailed if the manager runs already or the site config is not usable.
        """
        return await self._call(calls.start_manager(changes, reload_config=reload_config, reason=reason))

    async def stop_manager(self, *, reason: str = "") -> pb.StopManagerResponse:
        """Bring every instance down and stop the manager; return when all are down."""
        return await self._call(calls.stop_manager(reason=reason))

    async def list_events(
        self, instance_ids: Iterable[str] = (), *, newest: int = 0, **wanted: Unpack[EventFilter]
    ) -> EventListing:
        """Return the last `newest` events, oldest first; 0 for all that the daemon keeps.

        `wanted`: see EventFilter.
        """
        pages = calls.EventPages(instance_ids, newest, event_filter(**wanted))
        while (call := pages.next_call()) is not None:
            pages.received(await self._call(call))
        return pages.result()

    async def die(
        self,
        *,
        disown_dockers: bool = False,
        disown_processes: bool = False,
        expected_epoch: str = "",
        reason: str = "",
    ) -> pb.DieResponse:
        """Bring all instances down except disowned ones, and end the daemon.

        `disown_dockers` leaves compose services running, `disown_processes` native processes. Raises Aborted
        if `expected_epoch` is not the epoch of the daemon.
        """
        return await self._call(
            calls.die(
                disown_dockers=disown_dockers,
                disown_processes=disown_processes,
                expected_epoch=expected_epoch,
                reason=reason,
            )
        )

    async def upgrade(
        self, *, expected_epoch: str = "", validate_only: bool = False, reason: str = ""
    ) -> pb.UpgradeResponse:
        """Make the daemon re-execute the code that is installed on its host now.

        Returns just before the new code takes over. `validate_only`: only check that the new code starts.
        Raises PreconditionFailed if the new code does not start, Aborted if `expected_epoch` is not the epoch
        of the daemon.
        """
        return await self._call(calls.upgrade(expected_epoch, validate_only=validate_only, reason=reason))
