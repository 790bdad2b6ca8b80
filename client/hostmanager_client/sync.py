"""The blocking client of the HostManager daemon.

This module does the IO; calls.py, streams.py and waiting.py decide what to send and what an answer means.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1.host_manager_pb2_grpc import HostManagerServiceStub

from hostmanager_client import calls
from hostmanager_client.address import Address, default_address, parse_address
from hostmanager_client.attempts import Attempts
from hostmanager_client.calls import EventListing, Response, TargetRequests, UnaryCall
from hostmanager_client.channel import Transport
from hostmanager_client.docker import OrphanStream, PullStream
from hostmanager_client.errors import HostManagerError, Unreachable
from hostmanager_client.event_filter import event_filter
from hostmanager_client.identity import metadata_of
from hostmanager_client.log_readers import LogCalls
from hostmanager_client.plain_calls import PlainCalls
from hostmanager_client.reconnect import Link, OnConnection, Reconnect, ignore
from hostmanager_client.rpc_errors import error_from_rpc
from hostmanager_client.run_stream import RunStream
from hostmanager_client.seconds import check_timeout
from hostmanager_client.state import HostState, StatusUpdate
from hostmanager_client.streams import (
    DEFAULT_HEARTBEAT,
    DEFAULT_USAGE_INTERVAL,
    EventStream,
    Item,
    StatusStream,
    Stream,
    UsageStream,
    end_error,
    silence_error,
)
from hostmanager_client.waiting import OnProgress, Waiting, WaitProgress
from hostmanager_client.watchdog import Watchdog

if TYPE_CHECKING:
    from typing import Unpack

    from hostmanager_client.event_filter import EventFilter, NewEventFilter

_CLOSE_TIMEOUT = 1.0  # s


class HostManagerClient(PlainCalls, LogCalls):
    """A blocking client of one daemon; the first call opens the connection.

    Close the client, or use it in a `with` statement. `address`: see parse_address; None for
    default_address(). `timeout`: the deadline of every unary call, in s; None for the default of each call
    (10 s; 60 s for upgrade, 120 s for stop_manager and die). `reconnect`: the pauses between attempts to
    reopen a lost stream. `transport`: time limits of the connection. All methods raise the errors of
    hostmanager_client.errors. Several threads may share a client.
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
        """Close the connection and every open stream; the iterators of the streams stop."""
        self._closed.set()
        # After a Ctrl-C while a stream opens, the close() of gRPC waits for ever for the unfinished call
        # (grpcio 1.85). The client needs nothing from that wait.
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

    def start_manager(
        self, changes: TargetRequests = (), *, reload_config: bool = True, reason: str = ""
    ) -> pb.StartManagerResponse:
        """Start the manager, then apply the changes of targets in order.

        Raises PreconditionFailed if the manager runs already or the site config is not usable.
        """
        return self._call(calls.start_manager(changes, reload_config=reload_config, reason=reason))

    def stop_manager(self, *, reason: str = "") -> pb.StopManagerResponse:
        """Bring every instance down and stop the manager; return when all are down."""
        return self._call(calls.stop_manager(reason=reason))

    def list_events(
        self, instance_ids: Iterable[str] = (), *, newest: int = 0, **wanted: Unpack[EventFilter]
    ) -> EventListing:
        """Return the last `newest` events, oldest first; 0 for all that the daemon keeps.

        `wanted`: see EventFilter.
        """
        pages = calls.EventPages(instance_ids, newest, event_filter(**wanted))
        while (call := pages.next_call()) is not None:
            pages.received(self._call(call))
        return pages.result()

    def die(
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
        return self._call(
            calls.die(
                disown_dockers=disown_dockers,
                disown_processes=disown_processes,
                expected_epoch=expected_epoch,
                reason=reason,
            )
        )

    def upgrade(
        self, *, expected_epoch: str = "", validate_only: bool = False, reason: str = ""
    ) -> pb.UpgradeResponse:
        """Make the daemon re-execute the code that is installed on its host now.

        Returns just before the new code takes over. `validate_only`: only check that the new code starts.
        Raises PreconditionFailed if the new code does not start, Aborted if `expected_epoch` is not the epoch
        of the daemon.
        """
        return self._call(calls.upgrade(expected_epoch, validate_only=validate_only, reason=reason))

    # --- streams; closing the iterator ends the call.

    def watch(
        self,
        instance_ids: Iterable[str] = (), *, since: HostState | None = None, failing: bool = False,
        heartbeat: float = DEFAULT_HEARTBEAT, on_connection: OnConnection = ignore,
        on_contact: Callable[[], None] | None = None,
    ) -> Generator[StatusUpdate]:  # fmt: skip
        """Yield the state, then every change; reconnect after lost connections.

        `since`: resume from an earlier state of the same instances. `failing`: only instances that are
        failing at the moment; one that recovers counts as removed. `heartbeat`: interval in s, 1 to 3600; the
        client drops a connection that stays silent for 2.5 intervals. `on_connection`: called when the
        connection is lost or restored. `on_contact`: called at each heartbeat. Raises Unreachable if the
        first connection fails, and every error that a further attempt cannot cure.
        """
        return self._follow(
            StatusStream(instance_ids, heartbeat, since, on_contact, failing=failing), on_connection
        )

    def watch_usage(
        self,
        instance_ids: Iterable[str] = (),
        *,
        interval: float = DEFAULT_USAGE_INTERVAL,
        failing: bool = False,
        on_connection: OnConnection = ignore,
    ) -> Generator[pb.WatchUsageResponse]:
        """Yield what the named instances (or all) use, every `interval` s (0.5 to 60), until closed.

        The daemon measures only while somebody reads.
        """
        return self._follow(UsageStream(instance_ids, interval, failing=failing), on_connection)

    def watch_events(
        self,
        instance_ids: Iterable[str] = (),
        *,
        resume_token: str = "",
        heartbeat: float = DEFAULT_HEARTBEAT,
        on_connection: OnConnection = ignore,
        **wanted: Unpack[NewEventFilter],
    ) -> Generator[pb.Event | pb.EventGap]:
        """Yield every event from `resume_token` (of list_events) on, else from `since` on, or from now on.

        An EventGap stands for events that the daemon no longer has. `heartbeat` as in `watch`; `wanted`: see
        NewEventFilter.
        """
        stream = EventStream(instance_ids, resume_token, heartbeat, event_filter(**wanted))
        return self._follow(stream, on_connection)

    def docker_pull(
        self,
        instance_ids: Iterable[str] = (),
        *,
        new_only: bool = False,
        detach: bool = False,
        progress_timeout: float | None = None,
        reason: str = "",
    ) -> Generator[pb.DockerPullResponse]:
        """Pull the images of the named instances (or of all), or join a running pull.

        Each message has the images that changed since the previous message; the last message has the result.
        `new_only`: skip images that the engine has. `detach`: let the pull continue after its last client
        has left; without `detach` the daemon cancels the pull then. `progress_timeout`: time in s after which
        an image without progress fails, 1 to 3600; None for 60.
        """
        return self._follow(
            PullStream(
                instance_ids,
                new_only=new_only,
                detach=detach,
                progress_timeout=progress_timeout,
                reason=reason,
            ),
            ignore,
        )

    def run(self, instance: str, arguments: Iterable[str] = ()) -> Generator[pb.RunResponse]:
        """Run a one-shot once and now; yield its output, and last a message with its exit.

        `instance`: an id, or an agent class with a single one-shot. Leaving the iterator does not stop the
        run. Raises InvalidRequest for an instance that is no one-shot, runs already, or is held.
        """
        return self._follow(RunStream(instance, arguments), ignore)

    def remove_orphans(
        self, container_ids: Iterable[str] = (), *, stop_timeout: float | None = None, reason: str = ""
    ) -> Generator[pb.RemoveOrphansResponse]:
        """Stop and remove the named orphaned containers, or all; yield each removal, then the result.

        `stop_timeout`: time in s before a container is killed, 0 (at once) to 3600; None for 10. Raises
        NotFound for ids that name no orphan.
        """
        return self._follow(OrphanStream(container_ids, stop_timeout, reason), ignore)

    def wait_for(
        self,
        generations: Mapping[str, int],
        *,
        targets: Mapping[str, calls.Target | str] | None = None,
        epoch: str = "",
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        on_connection: OnConnection = ignore,
    ) -> WaitProgress:
        """Wait until every instance has carried out its generation and reached its target.

        `generations` and `epoch` come from the answer of update or restart; `targets`: the requested targets,
        if known. `timeout`: in s, None for no limit. Raises TargetNotReached with the instances that are
        late; an instance that cannot reach its target (not operable, target changed again) ends its part of
        the wait at once.
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
        request = calls.request_message(call)
        attempts = self._attempts(call.timeout, changes=call.changes)
        while True:
            try:
                left = attempts.time_left(time.monotonic())
                return cast("Response", method(request, timeout=left, metadata=metadata_of(call)))
            except grpc.RpcError as error:
                failure = error_from_rpc(error, call.what, self.address, changes=call.changes)
                pause = attempts.pause(failure, time.monotonic())
                if self._closed.is_set():
                    raise Unreachable(f"cannot {call.what}: this client is closed") from error
                if pause is None:
                    raise attempts.final(failure) from error
            except ValueError as error:  # gRPC raises ValueError for a closed channel
                raise Unreachable(f"cannot {call.what}: this client is closed") from error
            self._closed.wait(pause)

    def _attempts(self, timeout: float, *, changes: bool) -> Attempts:
        return Attempts(time.monotonic() + (self._timeout or timeout), repeatable=not changes)

    def _follow(
        self, stream: Stream[Item], on_connection: OnConnection, deadline: float | None = None
    ) -> Generator[Item]:
        """Yield the items of a stream over all of its connections, until `deadline`."""
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
            if (
                self._closed.is_set()
                or stream.cancelled
                or (deadline is not None and time.monotonic() >= deadline)
            ):
                return
            stream.disconnected()
            pause = link.lost(lost, time.monotonic())
            if deadline is not None:
                pause = min(pause, max(0.0, deadline - time.monotonic()))
            self._closed.wait(pause)

    def _connection(self, stream: Stream[Item], deadline: float | None) -> Generator[Any]:
        """Yield the messages of one connection; raise the error that ended the connection, if any."""
        method: Callable[..., Any] = getattr(self._stub, stream.method)
        request = stream.request()
        try:
            call = method(request, metadata=metadata_of(stream))
        except ValueError as error:
            raise Unreachable(f"cannot {stream.what}: this client is closed") from error
        stream.cancel_call = call.cancel
        if stream.cancelled:
            call.cancel()
        watchdog = Watchdog(call.cancel, stream.silence, deadline)
        try:
            watchdog.arm()
            for message in call:
                watchdog.disarm()  # the reader may take any time between messages
                yield message
                watchdog.arm()
        except grpc.RpcError as error:
            if watchdog.fired:
                raise silence_error(stream, str(self.address)) from error
            raise error_from_rpc(error, stream.what, self.address, changes=stream.changes) from error
        finally:
            watchdog.stop()
            call.cancel()
