"""Calls of the asyncio client that need nothing but the way to carry out one call."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client import calls
from hostmanager_client.calls import Listing, Response, UnaryCall
from hostmanager_client.state import HostState, make_state


class AsyncPlainCalls:
    """Unary calls of the status, and signals."""

    async def _call(self, call: UnaryCall[Response]) -> Response:
        raise NotImplementedError

    async def get_status(self) -> pb.GetStatusResponse:
        """Return the manager and the states of all instances, as one consistent snapshot."""
        return await self._call(calls.get_status())

    async def list_instances(self, instance_ids: Iterable[str] = ()) -> Listing:
        """Return full details of the named instances, or of all; raise NotFound for unknown ids."""
        pages = calls.InstancePages(instance_ids)
        while (call := pages.next_call()) is not None:
            pages.received(await self._call(call))
        return pages.result()

    async def get_instance(self, instance_id: str) -> pb.ManagedInstance:
        """Return full details of one instance; raise NotFound if the daemon has no such id."""
        return (await self._call(calls.get_instance(instance_id))).instance

    async def get_state(self, instance_ids: Iterable[str] = ()) -> HostState:
        """Return the manager and the named instances (or all), as a state that `watch` can resume."""
        status = await self.get_status()
        listing = await self.list_instances(instance_ids)
        return make_state(status, listing.instances, listing.revision)

    async def signal(
        self, instance_id: str, signal: str | int, *, whole_tree: bool = False
    ) -> pb.SignalResponse:
        """Send a signal, such as "HUP", to the main process of an instance, or to its whole tree."""
        return await self._call(calls.signal(instance_id, signal, whole_tree=whole_tree))
