"""GetStatus, ListInstances and GetInstance: the present state of the host."""

from __future__ import annotations

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.plan import no_instance
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.chunks import in_chunks
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert_instance import child_state
from hostmanager_server.rpc.errors import FieldViolation, invalid, unknown_instances
from hostmanager_server.rpc.tokens import read_page_token, write_page_token
from hostmanager_server.rpc.validation import check_id, check_ids, check_token, page_size
from hostmanager_server.state.store import Snapshot

DEFAULT_PAGE = 500


class StatusRpcs:
    """The RPCs that read the newest snapshot."""

    def __init__(self, context: RpcContext) -> None:
        """Serve from the context's store."""
        self._context = context

    async def get_status(self, request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        """Return the manager's status and the short form of every instance."""
        context = self._context
        now = context.now()
        snapshot = context.store.snapshot()
        instances = snapshot.instances
        return pb.GetStatusResponse(
            revision=snapshot.revision,
            time=convert.timestamp(now),
            manager=convert.manager_status(snapshot.manager, context.daemon),
            child_states=[child_state(instances[i].instance, now) for i in sorted(instances)],
            resume_token=context.token(snapshot.revision),
        )

    async def list_instances(self, request: pb.ListInstancesRequest) -> pb.ListInstancesResponse:
        """Return a page of instances, ordered by id."""
        context = self._context
        size = page_size(request.page_size, DEFAULT_PAGE)
        snapshot = context.store.snapshot()
        check_ids(request.instance_ids, "instance_ids", snapshot.instances)
        check_token(request.page_token, "page_token")
        ids = sorted(select_ids(snapshot, list(request.instance_ids)))
        if request.page_token:
            after = read_page_token(request.page_token)
            ids = [i for i in ids if i > after]
        now = context.now()
        page = next(in_chunks((context.convert(snapshot.instances[i], now) for i in ids), size), [])
        return pb.ListInstancesResponse(
            instances=page,
            next_page_token=write_page_token(page[-1].instance_id) if len(page) < len(ids) else "",
            revision=snapshot.revision,
            resume_token=context.token(snapshot.revision),
        )

    async def get_instance(self, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        """Return one instance."""
        context = self._context
        snapshot = context.store.snapshot()
        instance_id = require_instance(snapshot, request.instance_id)
        return pb.GetInstanceResponse(
            instance=context.convert(snapshot.instances[instance_id], context.now()),
            revision=snapshot.revision,
            resume_token=context.token(snapshot.revision),
        )


def require_instance(snapshot: Snapshot, instance_id: str) -> str:
    """Return the id of a tracked instance. Raises RpcError for an empty or unknown id."""
    if not instance_id:
        raise invalid("name an instance_id", FieldViolation("instance_id", "must not be empty"))
    check_id(instance_id, "instance_id", snapshot.instances)
    if instance_id not in snapshot.instances:
        text = no_instance(instance_id)
        raise unknown_instances([FieldViolation("instance_id", text)])
    return instance_id


def select_ids(snapshot: Snapshot, ids: list[str]) -> set[str]:
    """Return the given ids, or all ids when none are given. Raises RpcError for unknown ids."""
    unknown = [
        FieldViolation(f"instance_ids[{index}]", no_instance(instance_id))
        for index, instance_id in enumerate(ids)
        if instance_id not in snapshot.instances
    ]
    if unknown:
        raise unknown_instances(unknown)
    return set(ids) or set(snapshot.instances)
