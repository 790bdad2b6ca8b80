"""The blocking client: a thin shell that does the IO which calls.py, streams.py and waiting.py ask for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, cast

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1.host_manager_pb2_grpc import HostManagerServiceStub

from hostmanager_client import calls
from hostmanager_client.address import Address, default_address, parse_address
from hostmanager_client.attempts import Attempts
from hostmanager_client.calls import EventListing, Listing, Response, TargetRequests, UnaryCall
from hostmanager_client.channel import Transport
from hostmanager_client.docker import OrphanStream, PullStream
from hostmanager_client.errors import HostManagerError, Unreachable
from hostmanager_client.reconnect import Link, OnConnection, Reconnect, ignore
from hostmanager_client.rpc_errors import error_from_rpc
from hostmanager_client.seconds import check_timeout
from hostmanager_client.state import HostState, StatusUpdate, make_state
from hostmanager_client.streams import (
    DEFAULT_HEARTBEAT,
    EventStream,
    Item,
    LogStream,
    StatusStream,
    Stream,
    end_error,
    silence_error,
)
from hostmanager_client.waiting import OnProgress, Waiting, WaitProgress
from hostmanager_client.watchdog import Watchdog

_CLOSE_TIMEOUT = 1.0  # s


class HostManagerClient:
    """Talks to one daemon. Opens no connection before the first call; close it, or use it in a `with`.

    `address`: see parse_address; None for default_address(). `timeout`: the deadline in s of every unary
    call; None for each call's own (10 s; 60 s for upgrade, 120 s for stop_manager and die). `transport`: how
    patient its connections are. All methods raise what hostmanager_client.errors lists. A client may be used
    from several threads.
    """

    def __init__(
        self,
        address: str | Address | None = None,
        *,
        timeout: float | None = None,
        reconnect: Reconnect | None = None,
        transport: Transport | None = None,
    ) -> None:
        if address is None:
            address = default_address()
        self.address = parse_address(address) if isinstance(address, str) else address
        self._timeout = check_timeout(timeout)
        self._reconnect = reconnect or Reconnect()
        self._channel = grpc.insecure_channel(self.address.grpc_target, (transport or Transport()).options())
        self._stub = HostManagerServiceStub(self._channel)
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends the connection, and every stream that is still open: their iterators stop."""
        self._closed.set()
        # A Ctrl-C in the middle of opening a stream leaves gRPC with a call that nobody serves, and its
        # close() waits for it for ever (grpcio 1.85). Nothing of ours depends on that wait.
        closer = threading.Thread(target=self._channel.close, name="hostmanager-close", daemon=True)
        closer.start()
        closer.join(_CLOSE_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- unary calls

    def get_status(self) -> pb.GetStatusResponse:
        """The manager and all instances, in brief: one consistent snapshot."""
        return self._call(calls.get_status())

    def list_instances(self, instance_ids: Iterable[str] = ()) -> Listing:
        """Everything about these instances; about all when none are named. NotFound for unknown ids."""
        pages = calls.InstancePages(instance_ids)
        while (call := pages.next_call()) is not None:
            pages.received(self._call(call))
        return pages.result()

    def get_instance(self, instance_id: str) -> pb.ManagedInstance:
        """Everything about one instance. NotFound when it is not tracked."""
        return self._call(calls.get_instance(instance_id)).instance

    def get_state(self, instance_ids: Iterable[str] = ()) -> HostState:
        """The manager and these instances (all when none are named), to look at or to watch on from."""
        status = self.get_status()
        listing = self.list_instances(instance_ids)
        return make_state(status, listing.instances, listing.revision)

    def update(
        self, changes: TargetRequests = (), *, reload_config: bool = False, validate_only: bool = False
    ) -> pb.UpdateResponse:
        """Set targets, in order: {"all": UP, "data1": DOWN} ends with data1 down alone. All or nothing."""
        return self._call(calls.update(changes, reload_config=reload_config, validate_only=validate_only))

    def restart(self, instance_ids: Sequence[str] = (), *, all_up: bool = False) -> pb.RestartResponse:
        """Take instances, or `all_up` whose target is up, down and up again; targets stay as they are."""
        return self._call(calls.restart(instance_ids, all_up=all_up))

    def start_manager(
        self, changes: TargetRequests = (), *, reload_config: bool = True
    ) -> pb.StartManagerResponse:
        """Start the manager. PreconditionFailed when it runs, or the site config cannot be used."""
        return self._call(calls.start_manager(changes, reload_config=reload_config))

    def stop_manager(self) -> pb.StopManagerResponse:
        """Bring everything down; returns when it is, and the manager sleeps."""
        return self._call(calls.stop_manager())

    def list_events(self, instance_ids: Iterable[str] = (), *, newest: int = 0) -> EventListing:
        """What happened, oldest first: the `newest` so many events, 0 for all that are kept."""
        pages = calls.EventPages(instance_ids, newest)
        while (call := pages.next_call()) is not None:
            pages.received(self._call(call))
        return pages.result()

    def die(
        self, *, disown_dockers: bool = False, disown_processes: bool = False, expected_epoch: str = ""
    ) -> pb.DieResponse:
        """Bring everything down but what is disowned, and end the daemon. Aborted when it is another."""
        return self._call(
            calls.die(
                disown_dockers=disown_dockers,
                disown_processes=disown_processes,
                expected_epoch=expected_epoch,
            )
        )

    def upgrade(self, *, expected_epoch: str = "", validate_only: bool = False) -> pb.UpgradeResponse:
        """Replace the daemon in place by the code installed on its host now; returns when that is about to
        take over. PreconditionFailed when it does not start. Aborted when it is another daemon."""
        return self._call(calls.upgrade(expected_epoch, validate_only=validate_only))

    # --- streams. Each ends its call when the iterator is closed or forgotten.

    def watch(
        self,
        instance_ids: Iterable[str] = (),
        *,
        since: HostState | None = None,
        heartbeat: float = DEFAULT_HEARTBEAT,
        on_connection: OnConnection = ignore,
    ) -> Generator[StatusUpdate]:
        """The state, and then every change of it, over lost connections.

        `since`: go on from an earlier state of the same instances. `heartbeat`: 1 to 3600 s; after a
        silence of 2.5 of them the connection counts as dead. `on_connection` is told of losses and
        returns. Raises Unreachable when the first connection fails, and what cannot be tried again.
        """
        return self._follow(StatusStream(instance_ids, heartbeat, since), on_connection)

    def watch_events(
        self,
        instance_ids: Iterable[str] = (),
        *,
        resume_token: str = "",
        heartbeat: float = DEFAULT_HEARTBEAT,
        on_connection: OnConnection = ignore,
    ) -> Generator[pb.Event | pb.EventGap]:
        """Every event from `resume_token` (of list_events) on, or from now on; a gap says what was lost."""
        return self._follow(EventStream(instance_ids, resume_token, heartbeat), on_connection)

    def tail_logs(
        self,
        instance_id: str,
        *,
        lines: int | None = None,
        follow: bool = False,
        on_connection: OnConnection = ignore,
    ) -> Generator[pb.LogLine]:
        """The last lines of an instance (None: 100); with `follow` every new one, over lost connections."""
        silence = self._timeout or calls.PLAIN_TIMEOUT
        return self._follow(LogStream(instance_id, lines, follow=follow, silence=silence), on_connection)

    def docker_pull(
        self,
        instance_ids: Iterable[str] = (),
        *,
        new_only: bool = False,
        detach: bool = False,
        progress_timeout: float | None = None,
    ) -> Generator[pb.DockerPullResponse]:
        """Pull the images of these instances (all when none are named), or join the pull that runs.

        Each message has the images that are other than in the one before; the last one the result.
        `new_only`: only images that the engine does not have. The pull stops when the iterator is closed and
        nobody else follows it, unless somebody asked to `detach`. `progress_timeout`: 1 to 3600 s, None: 60.
        """
        return self._follow(
            PullStream(instance_ids, new_only=new_only, detach=detach, progress_timeout=progress_timeout),
            ignore,
        )

    def remove_orphans(
        self, container_ids: Iterable[str] = (), *, stop_timeout: float | None = None
    ) -> Generator[pb.RemoveOrphansResponse]:
        """Stop and remove orphaned containers (all when none are named): what became of each, then of all.

        `stop_timeout`: 0 (kill at once) to 3600 s, None for 10. NotFound for ids that name no orphan.
        """
        return self._follow(OrphanStream(container_ids, stop_timeout), ignore)

    def wait_for(
        self,
        generations: Mapping[str, int],
        *,
        targets: Mapping[str, calls.Target] | None = None,
        epoch: str = "",
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        on_connection: OnConnection = ignore,
    ) -> WaitProgress:
        """Follow until every instance has carried out its generation and stands where its target wants it.

        `generations` and `epoch` are of the answer of update or restart; `targets` what was asked for, when
        it is known. `timeout` in s, None for ever. Raises TargetNotReached, which names those that are not
        there; those that cannot get there (not operable, changed again) are given up at once.
        """
        waiting = Waiting(generations, targets, epoch)
        if not waiting.instance_ids:
            return waiting.observe(self.get_state())
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = StatusStream(waiting.instance_ids)
        with closing(self._follow(stream, on_connection, deadline)) as updates:
            for update in updates:
                progress = waiting.observe(update.state)
                if on_progress is not None:
                    on_progress(progress)
                if progress.done:
                    break
        return waiting.check(timeout, str(self.address))

    # --- IO

    def _call(self, call: UnaryCall[Response]) -> Response:
        method: Callable[..., Any] = getattr(self._stub, call.method)
        attempts = self._attempts(call.timeout, changes=call.changes)
        while True:
            try:
                return cast("Response", method(call.request, timeout=attempts.left(time.monotonic())))
            except grpc.RpcError as error:
                failure = error_from_rpc(error, call.what, self.address, changes=call.changes)
                pause = attempts.pause(failure, time.monotonic())
                if self._closed.is_set():
                    raise Unreachable(f"cannot {call.what}: this client is closed") from error
                if pause is None:
                    raise attempts.final(failure) from error
            except ValueError as error:  # what gRPC raises for a closed channel
                raise Unreachable(f"cannot {call.what}: this client is closed") from error
            self._closed.wait(pause)

    def _attempts(self, timeout: float, *, changes: bool) -> Attempts:
        return Attempts(time.monotonic() + (self._timeout or timeout), repeatable=not changes)

    def _follow(
        self, stream: Stream[Item], on_connection: OnConnection, deadline: float | None = None
    ) -> Generator[Item]:
        """The items of a stream over all of its connections, until `deadline`."""
        opening = self._attempts(calls.PLAIN_TIMEOUT, changes=stream.changes)
        link = Link(self._reconnect, on_connection, reconnects=stream.reconnects, opening=opening.pause)
        while True:
            lost: HostManagerError
            try:
                with closing(self._connection(stream, deadline)) as messages:
                    for message in messages:
                        items = stream.receive(message)
                        if not stream.undecided:
                            link.received(time.monotonic(), complete=stream.complete)
                        yield from items
                if not stream.reconnects:
                    stream.ended()
                    return
                lost = end_error(stream, str(self.address))
            except HostManagerError as error:
                lost = error
            if self._closed.is_set() or (deadline is not None and time.monotonic() >= deadline):
                return
            stream.disconnected()
            pause = link.lost(lost, time.monotonic())
            if deadline is not None:
                pause = min(pause, max(0.0, deadline - time.monotonic()))
            self._closed.wait(pause)

    def _connection(self, stream: Stream[Item], deadline: float | None) -> Generator[Any]:
        """The messages of one connection. Raises what ended it, unless the daemon did in good order."""
        method: Callable[..., Any] = getattr(self._stub, stream.method)
        try:
            call = method(stream.request())
        except ValueError as error:
            raise Unreachable(f"cannot {stream.what}: this client is closed") from error
        watchdog = Watchdog(call.cancel, stream.silence, deadline)
        try:
            watchdog.arm()
            for message in call:
                watchdog.disarm()  # the time that the reader takes is not silence
                yield message
                watchdog.arm()
        except grpc.RpcError as error:
            if watchdog.fired:
                raise silence_error(stream, str(self.address)) from error
            raise error_from_rpc(error, stream.what, self.address, changes=stream.changes) from error
        finally:
            watchdog.stop()
            call.cancel()
