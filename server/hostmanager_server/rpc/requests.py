"""StartManager, StopManager, Update, Restart, Upgrade and Die: requests that change the host's state."""

from __future__ import annotations

from collections.abc import Container, Sequence

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.signals import parse_signal
from hostmanager_server.core.spec import Management
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.call_origin import origin_of
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext, carry_out
from hostmanager_server.rpc.convert_changes import ChangesConverter
from hostmanager_server.rpc.errors import FieldViolation, from_request_error, invalid
from hostmanager_server.rpc.selecting import check_selectors
from hostmanager_server.rpc.validation import MAX_ID, check_count, check_id, check_ids, check_token
from hostmanager_server.supervisor import Accepted, RequestError, StaleEpochError, WrongStateError


class RequestRpcs:
    """The RPCs that the supervisor carries out."""

    def __init__(self, context: RpcContext) -> None:
        """Pass requests to the context's supervisor."""
        self._context = context
        self._changes = ChangesConverter()

    async def start_manager(self, request: pb.StartManagerRequest, caller: Caller) -> pb.StartManagerResponse:
        """Start the manager and set targets; reads the site config unless the request says otherwise."""
        context = self._context
        _check_changes(request.requests, context.store.snapshot().instances)
        changes = convert.target_changes(request.requests)
        reload_config = request.reload_config if request.HasField("reload_config") else True
        origin = origin_of(caller, request.reason, context.now())
        done = await carry_out(
            context.supervisor.start_manager(changes, reload_config=reload_config, origin=origin)
        )
        return pb.StartManagerResponse(
            revision=done.revision, epoch=context.daemon.epoch, resume_token=self._token_before(done)
        )

    async def stop_manager(self, request: pb.StopManagerRequest, caller: Caller) -> pb.StopManagerResponse:
        """Bring everything down; returns when nothing runs."""
        origin = origin_of(caller, request.reason, self._context.now())
        done = await carry_out(self._context.supervisor.stop_manager(origin=origin))
        return pb.StopManagerResponse(revision=done.revision, epoch=self._context.daemon.epoch)

    async def update(self, request: pb.UpdateRequest, caller: Caller) -> pb.UpdateResponse:
        """Reload the site config, set targets, or both."""
        context = self._context
        instances = context.store.snapshot().instances
        _check_changes(request.requests, instances)
        known = None if request.reload_config else instances
        changes = convert.target_changes(request.requests, known, with_dependencies=request.with_dependencies)
        if not changes and not request.reload_config:
            text = "nothing to do: give requests, or set reload_config"
            raise invalid(text, FieldViolation("requests", text))
        origin = origin_of(caller, request.reason, context.now())
        done = await carry_out(
            context.supervisor.update(
                changes,
                reload_config=request.reload_config,
                validate_only=request.validate_only,
                origin=origin,
            )
        )
        return pb.UpdateResponse(
            revision=done.revision,
            epoch=context.daemon.epoch,
            resume_token=self._token_before(done),
            generations=convert.generations(done.generations, done.targets),
            config_warnings=[convert.problem(warning) for warning in done.warnings],
            changes=self._changes(done.changes),
            more_changes=done.changes.more,
            stopping=done.changes.stopping,
            time=convert.timestamp(context.now()),
        )

    async def restart(self, request: pb.RestartRequest, caller: Caller) -> pb.RestartResponse:
        """Restart the named instances, or all."""
        context = self._context
        if bool(request.instance_ids or request.selectors or request.failing) == request.all:
            text = "give instance_ids, selectors or failing, or set all to true; not both"
            raise invalid(text, FieldViolation("instance_ids", text))
        check_ids(request.instance_ids, "instance_ids", context.store.snapshot().instances)
        ids = None if request.all else list(request.instance_ids)
        origin = origin_of(caller, request.reason, context.now())
        check_selectors(len(request.selectors))
        restart = context.supervisor.restart(ids, origin, list(request.selectors), failing=request.failing)
        done = await carry_out(restart, "instance_ids")
        return pb.RestartResponse(
            revision=done.revision,
            epoch=context.daemon.epoch,
            resume_token=self._token_before(done),
            generations=convert.generations(done.generations, done.targets),
        )

    async def signal(self, request: pb.SignalRequest, caller: Caller) -> pb.SignalResponse:
        """Send a signal to the processes of an instance."""
        context = self._context
        check_id(request.instance_id, "instance_id", context.store.snapshot().instances)
        signum = parse_signal(request.signal)
        if signum is None:
            text = f"{request.signal[:40]!r} is no signal; give a name or number, such as HUP, RTMIN+3 or 1"
            raise invalid(text, FieldViolation("signal", text))
        future = context.supervisor.signal(
            request.instance_id,
            signum,
            whole_tree=request.whole_tree,
            origin=origin_of(caller, request.reason, context.now()),
        )
        done = await carry_out(future, "instance_id")
        return pb.SignalResponse(revision=done.revision, epoch=context.daemon.epoch)

    async def die(self, request: pb.DieRequest, caller: Caller) -> pb.DieResponse:
        """End the daemon, after bringing down everything that the request does not disown."""
        context = self._context
        self._check_epoch(request.expected_epoch)
        disowned = _disowned(request)
        self._check_not_stopping(disowned)
        origin = origin_of(caller, request.reason, context.now())
        message = "the daemon will exit after bringing everything down"
        if disowned:
            message = f"the daemon will exit and leave {' and '.join(disowned.values())} running"
        try:
            context.exit_daemon(frozenset(disowned), origin)
        except RequestError as error:
            raise from_request_error(error, "") from error
        context.supervisor.log(LogEntry(EntryKind.DAEMON, "Die", message, context.now(), origin=origin))
        if len(disowned) < 2:  # something is left to stop
            await carry_out(context.supervisor.stop_manager(disowned, origin))
        return pb.DieResponse(epoch=context.daemon.epoch)

    async def upgrade(self, request: pb.UpgradeRequest, caller: Caller) -> pb.UpgradeResponse:
        """Replace the daemon by the installed version, or check that the upgrade is possible."""
        context = self._context
        self._check_epoch(request.expected_epoch)
        origin = origin_of(caller, request.reason, context.now())
        try:
            version = await context.upgrade_daemon(validate_only=request.validate_only)
        except RequestError as error:
            raise from_request_error(error, "") from error
        if not request.validate_only:
            context.supervisor.log(upgrading_entry(version, origin))
        return pb.UpgradeResponse(epoch=context.daemon.epoch, version=version)

    def _check_epoch(self, expected: str) -> None:
        """Refuse a request that was meant for another life of the daemon."""
        check_token(expected, "expected_epoch")
        epoch = self._context.daemon.epoch
        if expected and expected != epoch:
            raise from_request_error(StaleEpochError(expected, epoch), "")

    def _check_not_stopping(self, disowned: dict[Management, str]) -> None:
        """Refuse to disown instances that the manager is stopping already."""
        manager = self._context.store.snapshot().manager
        if manager.state is ManagerState.STOPPING and not disowned.keys() <= manager.disowned:
            action = f"leave {' and '.join(disowned.values())} running"
            remedy = "they have already been told to end; repeat the request without disowning them"
            raise from_request_error(WrongStateError(action, manager.state, remedy), "")

    def _token_before(self, done: Accepted) -> str:
        """Return a token for a watch that includes the accepted change itself."""
        return self._context.token(done.revision - 1)


def upgrading_entry(version: str, origin: Origin) -> LogEntry:
    """Return the event log entry for an accepted upgrade."""
    message = f"version {version} is about to take over"
    return LogEntry(EntryKind.DAEMON, "Upgrading", message, origin.at, origin=origin)


def _disowned(request: pb.DieRequest) -> dict[Management, str]:
    """Return the kinds of management whose instances stay running, with their names for operators."""
    disowned = {}
    if request.disown_processes:
        disowned[Management.HOST] = "native processes"
    if request.disown_dockers:
        disowned[Management.DOCKER] = "compose services"
    return disowned


def _check_changes(requests: Sequence[pb.TargetChange], known: Container[str]) -> None:
    """Refuse too many entries, and ids too long for an instance."""
    check_count(len(requests), "requests")
    check_selectors(sum(change.WhichOneof("who") == "selector" for change in requests))
    for index, change in enumerate(requests):
        if len(change.instance_id) > MAX_ID:
            check_id(change.instance_id, f"requests[{index}].instance_id", known)
