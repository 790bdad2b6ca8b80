"""GetStatus, ListInstances and GetInstance: the present state of the host."""

from __future__ import annotations

from bisect import bisect_right

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.plan import no_instance
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.chunks import in_chunks
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.errors import FieldViolation, invalid, unknown_instances
from hostmanager_server.rpc.selecting import instances_of, select_ids
from hostmanager_server.rpc.tokens import read_page_token, write_page_token
from hostmanager_server.rpc.validation import check_id, check_ids, check_token, page_size
from hostmanager_server.rpc.wire import embedded, repeated
from hostmanager_server.state.store import Snapshot

DEFAULT_PAGE = 500


class StatusRpcs:
    """The RPCs that read the newest snapshot."""

    def __init__(self, context: RpcContext) -> None:
        """Serve from the context's store."""
        self._context = context

    async def get_status(self, request: pb.GetStatusRequest) -> bytes:
        """Return the manager's status and the short form of every instance."""
        context = self._context
        now = context.now()
        states = context.child_states.at(now)
        revision = context.child_states.revision
        header = pb.GetStatusResponse(
            revision=revision, time=convert.timestamp(now), resume_token=context.token(revision)
        )
        return header.SerializeToString() + states

    async def list_instances(self, request: pb.ListInstancesRequest) -> bytes:
        """Return a page of instances, ordered by id."""
        context = self._context
        size = page_size(request.page_size, DEFAULT_PAGE)
        snapshot = context.store.snapshot()
        check_ids(request.instance_ids, "instance_ids", snapshot.instances)
        check_token(request.page_token, "page_token")
        ids = select_ids(
            snapshot, request.instance_ids, request.selectors,
            failing=request.failing, strict=not request.page_token,
        )  # fmt: skip
        start = bisect_right(ids, read_page_token(request.page_token)) if request.page_token else 0
        now = context.now()
        context.convert.forget_others(snapshot.instances)
        remaining = (ids[index] for index in range(start, len(ids)))
        page = next(in_chunks((context.convert(snapshot.instances[i], now) for i in remaining), size), [])
        end = start + len(page)
        header = pb.ListInstancesResponse(
            next_page_token=write_page_token(ids[end - 1]) if end < len(ids) else "",
            revision=snapshot.revision,
            resume_token=context.token(snapshot.revision),
        )
        return header.SerializeToString() + repeated(pb.ListInstancesResponse.INSTANCES_FIELD_NUMBER, page)

    async def get_instance(self, request: pb.GetInstanceRequest) -> bytes:
        """Return one instance."""
        context = self._context
        snapshot = context.store.snapshot()
        instance_id = require_instance(snapshot, request.instance_id)
        instance = context.convert(snapshot.instances[instance_id], context.now())
        header = pb.GetInstanceResponse(
            revision=snapshot.revision, resume_token=context.token(snapshot.revision)
        )
        return header.SerializeToString() + embedded(pb.GetInstanceResponse.INSTANCE_FIELD_NUMBER, instance)


def require_instance(snapshot: Snapshot, instance_id: str) -> str:
    """Return the id of a tracked instance. Raises RpcError for an empty or unknown id."""
    if not instance_id:
        raise invalid("name an instance_id", FieldViolation("instance_id", "must not be empty"))
    check_id(instance_id, "instance_id", snapshot.instances)
    if instance_id not in snapshot.instances:
        text = no_instance(instance_id, instances_of(snapshot))
        raise unknown_instances([FieldViolation("instance_id", text)])
    return instance_id
