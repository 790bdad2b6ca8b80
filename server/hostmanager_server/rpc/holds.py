"""Hold and Release: instances that the daemon must not start for a while."""

from __future__ import annotations

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.call_origin import origin_of
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext, carry_out
from hostmanager_server.rpc.errors import FieldViolation, invalid
from hostmanager_server.rpc.validation import check_ids, check_line, duration

SHORTEST, LONGEST = 1.0, 366 * 86_400.0  # s
MAX_REASON = 200  # characters


class HoldRpcs:
    """The RPCs that hold and release instances."""

    def __init__(self, context: RpcContext) -> None:
        """Pass requests to the context's supervisor."""
        self._context = context

    async def hold(self, request: pb.HoldRequest, caller: Caller) -> pb.HoldResponse:
        """Hold the named instances."""
        context = self._context
        if not request.instance_ids:
            text = "give at least one of instance_ids"
            raise invalid(text, FieldViolation("instance_ids", text))
        check_ids(request.instance_ids, "instance_ids", context.store.snapshot().instances)
        check_line(request.reason, "reason", MAX_REASON)
        seconds = None
        if request.HasField("duration"):
            seconds = duration(request.duration, "duration", SHORTEST, LONGEST)
        end = None if seconds is None else context.now().plus(seconds)
        origin = origin_of(caller, request.reason, context.now())
        held = context.supervisor.hold(list(request.instance_ids), seconds, request.reason, origin)
        done = await carry_out(held, "instance_ids")
        return pb.HoldResponse(
            revision=done.revision,
            epoch=context.daemon.epoch,
            resume_token=context.token(done.revision - 1),
            end_time=None if end is None else convert.timestamp(end),
        )

    async def release(self, request: pb.ReleaseRequest, caller: Caller) -> pb.ReleaseResponse:
        """Release the named instances, or all."""
        context = self._context
        if bool(request.instance_ids) == request.all:
            text = "give instance_ids, or set all to true; not both"
            raise invalid(text, FieldViolation("instance_ids", text))
        check_ids(request.instance_ids, "instance_ids", context.store.snapshot().instances)
        ids = None if request.all else list(request.instance_ids)
        origin = origin_of(caller, "", context.now())
        done = await carry_out(context.supervisor.release(ids, origin), "instance_ids")
        return pb.ReleaseResponse(
            revision=done.revision,
            epoch=context.daemon.epoch,
            resume_token=context.token(done.revision - 1),
        )
