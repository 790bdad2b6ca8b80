"""The asyncio client of the HostManager daemon.

This module does the IO; calls.py, streams.py and waiting.py decide what to send and what an answer means.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
import grpc.aio
from grpc.aio import UsageError
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1.host_manager_pb2_grpc import HostManagerServiceStub

from hostmanager_client import calls
from hostmanager_client.address import Address, default_address, parse_address
from hostmanager_client.aio_calls import AsyncCalls
from hostmanager_client.attempts import Attempts
from hostmanager_client.calls import Response, UnaryCall
from hostmanager_client.channel import Transport
from hostmanager_client.docker import OrphanStream, PullStream
from hostmanager_client.errors import HostManagerError, Unreachable
from hostmanager_client.event_filter import event_filter
from hostmanager_client.identity import metadata_of
from hostmanager_client.log_readers_async import AsyncLogCalls
from hostmanager_client.reconnect import Link, OnConnection, Reconnect, ignore
from hostmanager_client.rpc_errors import error_from_rpc, make_error
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

if TYPE_CHECKING:
    from typing import Unpack

    from hostmanager_client.event_filter import NewEventFilter


class AsyncHostManagerClient(AsyncCalls, AsyncLogCalls):
    """An asyncio client of one daemon; the first call opens the connection.

    Close the client, or use it in an `async with` statement. `address`: see parse_address; None for
    default_address(). `timeout`: the deadline of every unary call, in s; None for the default of each call
    (10 s; 60 s for upgrade, 120 s for stop_manager and die). `reconnect`: the pauses between attempts to
    reopen a lost stream. `transport`: time limits of the connection. All methods raise the errors of
    hostmanager_client.errors. A client belongs to the event loop of its first call.
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
        self._channel = grpc.aio.insecure_channel(
            self.address.grpc_target, (transport or Transport()).options()
        )
        self._stub = HostManagerServiceStub(self._channel)
        self._closed = asyncio.Event()
        self._streams: set[Any] = set()

    async def close(self) -> None:
        """Close the connection and every open stream; the iterators of the streams stop."""
        self._closed.set()
        for stream in tuple(self._streams):
            stream.cancel()  # grpcio before 1.82 closes the channel, but not the streams
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- streams; closing the iterator ends the call.

    def watch(
        self,
        instance_ids: Iterable[str] = (), *, since: HostState | None = None, failing: bool = False,
        heartbeat: float = DEFAULT_HEARTBEAT, on_connection: OnConnection = ignore,
        on_contact: Callable[[], None] | None = None,
    ) -> AsyncGenerator[StatusUpdate]:  # fmt: skip
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
    ) -> AsyncGenerator[pb.WatchUsageResponse]:
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
    ) -> AsyncGenerator[pb.Event | pb.EventGap]:
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
    ) -> AsyncGenerator[pb.DockerPullResponse]:
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

    def run(self, instance: str, arguments: Iterable[str] = ()) -> AsyncGenerator[pb.RunResponse]:
        """Run a one-shot once and now; yield its output, and last a message with its exit.

        `instance`: an id, or an agent class with a single one-shot. Leaving the iterator does not stop the
        run. Raises InvalidRequest for an instance that is no one-shot, runs already, or is held.
        """
        return self._follow(RunStream(instance, arguments), ignore)

    def remove_orphans(
        self, container_ids: Iterable[str] = (), *, stop_timeout: float | None = None, reason: str = ""
    ) -> AsyncGenerator[pb.RemoveOrphansResponse]:
        """Stop and remove the named orphaned containers, or all; yield each removal, then the result.

        `stop_timeout`: time in s before a container is killed, 0 (at once) to 3600; None for 10. Raises
        NotFound for ids that name no orphan.
        """
        return self._follow(OrphanStream(container_ids, stop_timeout, reason), ignore)

    async def wait_for(
        self,
        generations: Mapping[str, int],
        *,
        targets: Mapping[str, calls.Target | str] | None = None,
        epoch: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 -- asyncio.timeout cannot name late instances
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
            return waiting.observe(await self.get_state())
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = StatusStream(waiting.instance_ids)
        async with aclosing(self._follow(stream, on_connection, deadline)) as updates:
            async for update in updates:
                progress = waiting.observe(update.state)
                if on_progress is not None:
                    on_progress(progress)
                if progress.done:
                    break
        return waiting.check(timeout, str(self.address))

    # --- IO

    async def _call(self, call: UnaryCall[Response]) -> Response:
        method: Callable[..., Any] = getattr(self._stub, call.method)
        request = calls.request_message(call)
        attempts = self._attempts(call.timeout, changes=call.changes)
        while True:
            try:
                left = attempts.time_left(time.monotonic())
                answer = await method(request, timeout=left, metadata=metadata_of(call))
                if answer is not None:
                    return cast("Response", answer)
                raise self._unreadable(call.what, changes=call.changes)
            except grpc.RpcError as error:
                failure = error_from_rpc(error, call.what, self.address, changes=call.changes)
                pause = attempts.pause(failure, time.monotonic())
                if self._closed.is_set():
                    raise Unreachable(f"cannot {call.what}: this client is closed") from error
                if pause is None:
                    raise attempts.final(failure) from error
            except UsageError as error:  # the channel is closed
                raise Unreachable(f"cannot {call.what}: this client is closed") from error
            await self._pause(pause)

    def _unreadable(self, what: str, *, changes: bool) -> HostManagerError:
        """Return the error for an unreadable message, for which grpc.aio returns None."""
        text = "Exception deserializing response!"  # the text of the blocking gRPC API
        return make_error("INTERNAL", text, (), what, self.address, changes=changes)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake up when this client is closed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    def _attempts(self, timeout: float, *, changes: bool) -> Attempts:
        return Attempts(time.monotonic() + (self._timeout or timeout), repeatable=not changes)

    async def _follow(
        self, stream: Stream[Item], on_connection: OnConnection, deadline: float | None = None
    ) -> AsyncGenerator[Item]:
        """Yield the items of a stream over all of its connections, until `deadline`."""
        opening = self._attempts(calls.PLAIN_TIMEOUT, changes=stream.changes)
        link = Link(self._reconnect, on_connection, reconnects=stream.reconnects, opening=opening.pause)
        while True:
            lost: HostManagerError
            try:
                async with aclosing(self._connection(stream, deadline)) as messages:
                    async for message in messages:
                        items = stream.receive(message)
                        if not stream.undecided:
                            link.received(time.monotonic(), complete=stream.complete)
                        for item in items:
                            yield item
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
            await self._pause(pause)

    async def _connection(self, stream: Stream[Item], deadline: float | None) -> AsyncGenerator[Any]:
        """Yield the messages of one connection; raise the error that ended the connection, if any."""
        method: Callable[..., Any] = getattr(self._stub, stream.method)
        try:
            call = method(stream.request())
        except UsageError as error:  # the channel is closed
            raise Unreachable(f"cannot {stream.what}: this client is closed") from error
        self._streams.add(call)
        try:
            while True:
                limits = [] if stream.silence is None else [stream.silence]
                if deadline is not None:
                    limits.append(max(0.0, deadline - time.monotonic()))
                async with asyncio.timeout(min(limits, default=None)):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                if message is None:
                    raise self._unreadable(stream.what, changes=stream.changes)
                yield message
        except TimeoutError as error:
            raise silence_error(stream, str(self.address)) from error
        except grpc.RpcError as error:
            raise error_from_rpc(error, stream.what, self.address, changes=stream.changes) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._closed.is_set():
                return  # close() cancelled the call, so the iterator stops
            # gRPC raises CancelledError also if the daemon answers with CANCELLED.
            raise make_error(
                "CANCELLED", "", (), stream.what, self.address, changes=stream.changes
            ) from error
        finally:
            self._streams.discard(call)
            call.cancel()  # gRPC keeps an aio stream alive that has lost its reader
