"""GetStatus, ListInstances, GetInstance: what there is now."""

from __future__ import annotations

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.plan import no_instance
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import check_id, check_ids, check_token
from hostmanager_server.rpc.context import RpcContext, page_size
from hostmanager_server.rpc.errors import FieldViolation, invalid, unknown_instances
from hostmanager_server.rpc.pieces import in_pieces
from hostmanager_server.state.store import Snapshot

DEFAULT_PAGE = 500


class StatusRpcs:
    def __init__(self, context: RpcContext) -> None:
        self._context = context

    async def get_status(self, request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        context = self._context
        now = context.now()
        snapshot = context.store.snapshot()
        instances = snapshot.instances
        return pb.GetStatusResponse(
            revision=snapshot.revision,
            time=convert.timestamp(now),
            manager=convert.manager_status(snapshot.manager, context.daemon),
            child_states=[convert.child_state(instances[i].instance, now) for i in sorted(instances)],
            resume_token=context.token(snapshot.revision),
        )

    async def list_instances(self, request: pb.ListInstancesRequest) -> pb.ListInstancesResponse:
        context = self._context
        size = page_size(request.page_size, DEFAULT_PAGE)
        snapshot = context.store.snapshot()
        check_ids(request.instance_ids, "instance_ids", snapshot.instances)
        check_token(request.page_token, "page_token")
        ids = sorted(chosen(snapshot, list(request.instance_ids)))
        if request.page_token:
            after = _read_page_token(request.page_token)
            ids = [i for i in ids if i > after]
        now = context.now()
        page = next(in_pieces((context.convert(snapshot.instances[i], now) for i in ids), size), [])
        return pb.ListInstancesResponse(
            instances=page,
            next_page_token=_page_token(page[-1].instance_id) if len(page) < len(ids) else "",
            revision=snapshot.revision,
            resume_token=context.token(snapshot.revision),
        )

    async def get_instance(self, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        context = self._context
        snapshot = context.store.snapshot()
        tracked = find(snapshot, request.instance_id)
        return pb.GetInstanceResponse(
            instance=context.convert(snapshot.instances[tracked], context.now()),
            revision=snapshot.revision,
            resume_token=context.token(snapshot.revision),
        )


def find(snapshot: Snapshot, instance_id: str) -> str:
    """The id, when there is such an instance. Raises RpcError otherwise."""
    if not instance_id:
        raise invalid("name an instance_id", FieldViolation("instance_id", "must not be empty"))
    check_id(instance_id, "instance_id", snapshot.instances)
    if instance_id not in snapshot.instances:
        text = no_instance(instance_id)
        raise unknown_instances([FieldViolation("instance_id", text)])
    return instance_id


def chosen(snapshot: Snapshot, ids: list[str]) -> set[str]:
    """These ids; all there are when none are given. Raises RpcError for those that are not known."""
    unknown = [
        FieldViolation(f"instance_ids[{index}]", no_instance(instance_id))
        for index, instance_id in enumerate(ids)
        if instance_id not in snapshot.instances
    ]
    if unknown:
        raise unknown_instances(unknown)
    return set(ids) or set(snapshot.instances)


# A page goes on after the last id of the one before: instances that come and go meanwhile do no harm.
_PREFIX = "after:"


def _page_token(last: str) -> str:
    return _PREFIX + last


def _read_page_token(text: str) -> str:
    if not text.startswith(_PREFIX):
        message = "page_token is not one that this API gave out; leave it empty to start afresh"
        raise invalid(message, FieldViolation("page_token", message))
    return text.removeprefix(_PREFIX)
