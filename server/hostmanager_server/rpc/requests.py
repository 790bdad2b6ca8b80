"""StartManager, StopManager, Update, Restart, Upgrade, Die: what changes something."""

from __future__ import annotations

from collections.abc import Container, Sequence

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.spec import Management
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import MAX_ID, check_count, check_id, check_ids, check_token
from hostmanager_server.rpc.context import RpcContext, carry_out
from hostmanager_server.rpc.errors import FieldViolation, from_request_error, invalid
from hostmanager_server.supervisor import Accepted, RequestError, StaleEpochError, WrongStateError


class RequestRpcs:
    def __init__(self, context: RpcContext) -> None:
        self._context = context

    async def start_manager(self, request: pb.StartManagerRequest) -> pb.StartManagerResponse:
        context = self._context
        _check_changes(request.requests, context.store.snapshot().instances)
        changes = convert.target_changes(request.requests)
        reload_config = request.reload_config if request.HasField("reload_config") else True
        done = await carry_out(context.supervisor.start_manager(changes, reload_config=reload_config))
        return pb.StartManagerResponse(
            revision=done.revision, epoch=context.daemon.epoch, resume_token=self._before(done)
        )

    async def stop_manager(self, request: pb.StopManagerRequest) -> pb.StopManagerResponse:
        done = await carry_out(self._context.supervisor.stop_manager())
        return pb.StopManagerResponse(revision=done.revision, epoch=self._context.daemon.epoch)

    async def update(self, request: pb.UpdateRequest) -> pb.UpdateResponse:
        context = self._context
        instances = context.store.snapshot().instances
        _check_changes(request.requests, instances)
        known = None if request.reload_config else instances
        changes = convert.target_changes(request.requests, known)
        if not changes and not request.reload_config:
            text = "nothing to do: give requests, or set reload_config"
            raise invalid(text, FieldViolation("requests", text))
        done = await carry_out(
            context.supervisor.update(
                changes, reload_config=request.reload_config, validate_only=request.validate_only
            )
        )
        return pb.UpdateResponse(
            revision=done.revision,
            epoch=context.daemon.epoch,
            resume_token=self._before(done),
            generations=_generations(done),
            config_warnings=[convert.problem(p) for p in done.warnings],
        )

    async def restart(self, request: pb.RestartRequest) -> pb.RestartResponse:
        context = self._context
        if bool(request.instance_ids) == request.all:
            text = "give instance_ids, or set all to true; not both"
            raise invalid(text, FieldViolation("instance_ids", text))
        check_ids(request.instance_ids, "instance_ids", context.store.snapshot().instances)
        ids = None if request.all else list(request.instance_ids)
        done = await carry_out(context.supervisor.restart(ids), "instance_ids")
        return pb.RestartResponse(
            revision=done.revision,
            epoch=context.daemon.epoch,
            resume_token=self._before(done),
            generations=_generations(done),
        )

    async def die(self, request: pb.DieRequest) -> pb.DieResponse:
        context = self._context
        self._check_epoch(request.expected_epoch)
        disown = {
            management: what
            for management, what, asked in (
                (Management.HOST, "native processes", request.disown_processes),
                (Management.DOCKER, "compose services", request.disown_dockers),
            )
            if asked
        }
        manager = context.store.snapshot().manager
        if manager.state is ManagerState.STOPPING and not disown.keys() <= manager.disowned:
            what = f"leave {' and '.join(disown.values())} running"
            remedy = "what is asked to be left has been told to end; ask without it"
            raise from_request_error(WrongStateError(what, manager.state, remedy), "")
        message = "the daemon is to exit after bringing everything down"
        if disown:
            message = f"the daemon is to exit, leaving {' and '.join(disown.values())} running"
        try:
            context.exit_daemon(frozenset(disown))
        except RequestError as error:
            raise from_request_error(error, "") from error
        context.supervisor.log(LogEntry(EntryKind.DAEMON, "Die", message, context.now()))
        if len(disown) < 2:
            await carry_out(context.supervisor.stop_manager(disown))
        return pb.DieResponse(epoch=context.daemon.epoch)

    async def upgrade(self, request: pb.UpgradeRequest) -> pb.UpgradeResponse:
        context = self._context
        self._check_epoch(request.expected_epoch)
        try:
            version = await context.upgrade_daemon(request.validate_only)
        except RequestError as error:
            raise from_request_error(error, "") from error
        return pb.UpgradeResponse(epoch=context.daemon.epoch, version=version)

    def _check_epoch(self, expected: str) -> None:
        """Raises RpcError when the request was meant for another daemon."""
        check_token(expected, "expected_epoch")
        epoch = self._context.daemon.epoch
        if expected and expected != epoch:
            raise from_request_error(StaleEpochError(expected, epoch), "")

    def _before(self, done: Accepted) -> str:
        """A token to watch from that shows the accepted change itself, too."""
        return self._context.token(done.revision - 1)


def _check_changes(requests: Sequence[pb.TargetChange], known: Container[str]) -> None:
    """Raises RpcError for too many entries, and for ids that are too long."""
    check_count(len(requests), "requests")
    for index, change in enumerate(requests):
        if len(change.instance_id) > MAX_ID:
            check_id(change.instance_id, f"requests[{index}].instance_id", known)


def _generations(done: Accepted) -> list[pb.InstanceGeneration]:
    return [
        pb.InstanceGeneration(instance_id=instance_id, generation=generation)
        for instance_id, generation in done.generations.items()
    ]
