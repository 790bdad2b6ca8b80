"""The calls of the status and the targets, which the blocking and the light client share."""

from __future__ import annotations

from hostmanager_client import calls

TYPE_CHECKING = False  # `typing` and the stubs have a cost that short commands need not pay
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.calls import Listing, Response, TargetRequests, UnaryCall
    from hostmanager_client.state import HostState


class PlainCalls:
    """Unary calls that need nothing of a client but the way to carry out one call."""

    def _call(self, call: UnaryCall[Response]) -> Response:
        raise NotImplementedError  # each client has its own

    def get_status(self) -> pb.GetStatusResponse:
        """Return the manager and the states of all instances, as one consistent snapshot."""
        return self._call(calls.get_status())

    def list_instances(self, instance_ids: Iterable[str] = (), *, failing: bool = False) -> Listing:
        """Return full details of the named instances, or of all; raise NotFound for unknown ids.

        `failing`: only of those that are failing.
        """
        pages = calls.InstancePages(instance_ids, failing=failing)
        while (call := pages.next_call()) is not None:
            pages.received(self._call(call))
        return pages.result()

    def get_instance(self, instance_id: str) -> pb.ManagedInstance:
        """Return full details of one instance; raise NotFound if the daemon has no such id."""
        return self._call(calls.get_instance(instance_id)).instance

    def get_usage(
        self, instance_ids: Iterable[str] = (), *, failing: bool = False, window: float = 0.0
    ) -> pb.GetUsageResponse:
        """Return what the named instances (or all) use: CPU, memory, tasks and descriptors.

        `window`: time in s between two measurements, from which `cpu` follows, up to 10; 0 for one without.
        """
        return self._call(calls.get_usage(instance_ids, failing=failing, window=window))

    def get_state(self, instance_ids: Iterable[str] = (), *, failing: bool = False) -> HostState:
        """Return the manager and the named instances (or all), as a state that `watch` can resume.

        `failing`: only the failing ones.
        """
        from hostmanager_client.state import make_state

        status = self.get_status()
        listing = self.list_instances(instance_ids, failing=failing)
        return make_state(status, listing.instances, listing.revision)

    def explain(self, instance_ids: Iterable[str] = ()) -> pb.ExplainResponse:
        """Return why the named instances, or all that are not as wanted, are where they are.

        Each explanation has the last ends, the last working run, the changes before, and what to try.
        """
        return self._call(calls.explain(instance_ids))

    def update(
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
        return self._call(
            calls.update(
                changes,
                reload_config=reload_config,
                validate_only=validate_only,
                with_dependencies=with_dependencies,
                failing=failing,
                reason=reason,
            )
        )

    def restart(
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
        return self._call(calls.restart(instance_ids, all_up=all_up, failing=failing, reason=reason))

    def signal(
        self, instance_id: str, signal: str | int, *, whole_tree: bool = False, reason: str = ""
    ) -> pb.SignalResponse:
        """Send a signal, such as "HUP", to the main process of an instance, or to its whole tree."""
        return self._call(calls.signal(instance_id, signal, whole_tree=whole_tree, reason=reason))

    def hold(
        self, instance_ids: Iterable[str], seconds: float | None = None, *, reason: str = ""
    ) -> pb.HoldResponse:
        """Let the daemon neither start nor restart instances for some s; None: until their release."""
        return self._call(calls.hold(instance_ids, seconds, reason))

    def release(self, instance_ids: Iterable[str] = (), *, all_held: bool = False) -> pb.ReleaseResponse:
        """End holds before their time; `all_held`: every hold."""
        return self._call(calls.release(instance_ids, all_held=all_held))
