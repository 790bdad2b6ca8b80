"""A test harness for the gRPC server: the real supervisor over fake agents, on a unix socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import State
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, ProcessSpec, Target
from hostmanager_server.drivers.contract import CallSoon, Driver, Poller, PostEvent
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert import DaemonInfo
from hostmanager_server.rpc.convert_instance import InstanceConverter
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.server import Limits, Server, parse_listen
from hostmanager_server.state.event_archive import EventArchive
from hostmanager_server.state.event_history import EventHistory
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import ReplacingError, Supervisor, UpgradeError, now

from tests.fakes.driver import FakeDriver, FakeDriverHost
from tests.in_memory import MemoryConfig, MemoryJournal
from tests.rpc.fakes import FakeDockerEngine, FakeMeter, FakeOutputs
from tests.waiting import wait_until_async

T = TypeVar("T")
PATIENCE = 60.0  # s, for waits that take milliseconds on a quiet machine
LONG_FOR_A_CLIENT = 0.2  # s, some hundred times the duration of a call


def spec(instance_id: str, agent_class: str = "Agent", target: Target = Target.UP) -> InstanceSpec:
    return InstanceSpec(instance_id, agent_class, initial_target=target, process=ProcessSpec((instance_id,)))


class ServerHarness:
    """The server half of one daemon, and clients for it."""

    def __init__(self, directory: Path, specs: Sequence[InstanceSpec], removals_kept: int) -> None:
        self.config = MemoryConfig(HostSpec("host", tuple(specs)))
        self.epoch = "e0"
        self.died: list[frozenset[Management]] = []
        self.being_upgraded = False
        self.upgrades: list[bool] = []  # one entry a request: whether it only checks
        self.cannot_upgrade = ""
        self.addresses: list[str] = []
        self.engine = FakeDockerEngine()
        self.meter = FakeMeter()
        self.server: Server  # set by `server_harness`
        self.channels: list[grpc.aio.Channel] = []
        self.address = f"unix:{directory}/s"
        self.archive = EventArchive(directory / "events", self.epoch)
        self.store = Store(
            self.epoch,
            ManagerStatus(ManagerState.STOPPED, "host", "site.yaml"),
            removals_kept=removals_kept,
            last_sequence=self.archive.last,
        )
        self.supervisor = Supervisor(
            self.store, lambda: self.config, self._driver, MemoryJournal(), lambda: None
        )
        self.hub = Hub(self.store)
        self.context = RpcContext(
            DaemonInfo("0.0", self.epoch, 1, now()), self.store, EventHistory(self.store, self.archive),
            self.supervisor, self.hub,
            InstanceConverter(lambda spec: f"/logs/{spec.instance_id}"), FakeOutputs(), now, self._exit,
            self._upgrade, self.meter, self.engine,
        )  # fmt: skip

    def _exit(self, disown: frozenset[Management], origin: Origin) -> None:
        if self.being_upgraded:
            raise ReplacingError
        self.died.append(disown)

    async def _upgrade(self, *, validate_only: bool) -> str:
        if self.cannot_upgrade:
            raise UpgradeError(self.cannot_upgrade)
        self.upgrades.append(validate_only)
        return "9.9"

    def _driver(self, poller: Poller, post: PostEvent, call_soon: CallSoon) -> Driver:
        self.host = FakeDriverHost(poller)
        self.call_soon = call_soon  # the host's processes live on the supervisor's thread
        return FakeDriver(poller, post, self.host)

    def channel(
        self, address: str = "", options: Mapping[str, int] = MappingProxyType({})
    ) -> grpc.aio.Channel:
        chosen = [(f"grpc.{name}", value) for name, value in options.items()]
        chosen.append(("grpc.use_local_subchannel_pool", 1))
        channel = grpc.aio.insecure_channel(address or self.address, options=chosen)
        self.channels.append(channel)
        return channel

    def stub(self) -> pb_grpc.HostManagerServiceAsyncStub:
        return pb_grpc.HostManagerServiceStub(self.channel())

    def keep_supervisor_busy(self) -> None:
        """Delay the supervisor, so that any answer that skips it comes first."""
        self.supervisor.call_soon(lambda: time.sleep(LONG_FOR_A_CLIENT))

    def settled(self) -> bool:
        """Return whether every instance with the target `up` is up."""
        instances = [t.instance for t in self.store.snapshot().instances.values()]
        return all(i.standing.state is State.UP for i in instances if i.wanted.target is Target.UP)

    async def restart(self, instance_id: str) -> None:
        """Restart an instance, and wait until it is up again."""
        before = self.host.run_of(instance_id)
        await self.stub().Restart(pb.RestartRequest(instance_ids=[instance_id]))

        def has_new_run() -> bool:
            run = self.host.run_of(instance_id)
            return run is not None and run is not before

        await until(has_new_run)
        await until(self.settled)

    async def answers_another_client(self) -> None:
        """Check that another client, on a new connection, gets an answer."""
        assert await self.stub().GetStatus(pb.GetStatusRequest())

    @property
    def watchers(self) -> int:
        """The number of streams that clients hold."""
        return sum(admission.streams.held for admission in self.server.admission)


@asynccontextmanager
async def server_harness(
    directory: Path,
    specs: Sequence[InstanceSpec] = (spec("a"), spec("b"), spec("c")),
    *,
    limits: Limits = Limits(),  # noqa: B008  # immutable
    removals_kept: int = 10_000,
    started: bool = True,
    tcp: bool = False,
    tcp_reflection: bool = False,
    compose: bool = True,
) -> AsyncIterator[ServerHarness]:
    """Serve a harness; unless `started` is false, with the manager started and all instances up."""
    harness = ServerHarness(directory, specs, removals_kept)
    if not compose:
        harness.context = replace(harness.context, engine=None)
    listen = [parse_listen(harness.address, insecure=False)]
    if tcp:
        listen.append(parse_listen("127.0.0.1:0", insecure=True))
    server = Server(harness.context, listen, limits, tcp_reflection=tcp_reflection)
    harness.server = server
    harness.addresses = server.bind()
    await server.serve()
    harness.supervisor.start()
    try:
        if started:
            await asyncio.wrap_future(harness.supervisor.start_manager())
            await until(harness.settled)
        yield harness
    finally:
        for channel in harness.channels:
            await channel.close()
        await server.stop()
        harness.supervisor.close(disown=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the server. Raises AssertionError after PATIENCE s."""
    await wait_until_async(condition, "the condition of the test", PATIENCE)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test coroutine on a new event loop."""
    asyncio.run(asyncio.wait_for(test, PATIENCE * 1.5))


@dataclass(frozen=True, slots=True)
class Refusal:
    """The status of a failed call, with its google.rpc details."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    violations: dict[str, str]


async def refused(call: Awaitable[object]) -> Refusal:
    """Await a call that must fail, and return its status."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def messages(call: Any) -> list[Any]:
    """Return the remaining messages of a stream."""
    found = []
    while (message := await call.read()) is not grpc.aio.EOF:
        found.append(message)
    return found


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            status = status_pb2.Status.FromString(value)
            break
    else:
        raise AssertionError(f"no details with {error!r}")
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(bad)
    violations = {v.field: v.description for v in bad.field_violations}
    return Refusal(error.code(), status.message, info.reason, info.domain, dict(info.metadata), violations)


def up(*ids: str) -> list[pb.TargetChange]:
    return [pb.TargetChange(instance_id=i, target_state=pb.TARGET_STATE_UP) for i in ids]


def down(*ids: str) -> list[pb.TargetChange]:
    return [pb.TargetChange(instance_id=i, target_state=pb.TARGET_STATE_DOWN) for i in ids]


class WatchState:
    """A reader of WatchStatus that folds messages into state, and checks their order."""

    def __init__(self) -> None:
        self.revision = 0
        self.token = ""
        self.instances: dict[str, pb.ManagedInstance] = {}
        self.manager: pb.ManagerStatus | None = None
        self.reasons: list[int] = []
        self.chunks = 0
        self.heartbeats = 0

    def fold(self, message: pb.WatchStatusResponse) -> None:
        assert message.revision >= self.revision, "revisions never go back"
        kind = message.WhichOneof("update")
        if kind == "snapshot":
            chunk = message.snapshot
            if chunk.first:
                self.instances, self.chunks = {}, 0
                self.reasons.append(chunk.reason)
                self.manager = chunk.manager
            self.chunks += 1
            self.instances.update((i.instance_id, i) for i in chunk.instances)
            assert bool(message.resume_token) == chunk.last
        elif kind == "delta":
            assert message.revision > self.revision, "a delta brings something new"
            self.instances.update((i.instance_id, i) for i in message.delta.instances)
            for gone in message.delta.removed_instance_ids:
                del self.instances[gone]
            if message.delta.HasField("manager"):
                self.manager = message.delta.manager
        else:
            assert message.revision == self.revision
            self.heartbeats += 1
        self.revision, self.token = message.revision, message.resume_token

    async def read(self, stream: AsyncIterable[pb.WatchStatusResponse], enough: Callable[[], bool]) -> None:
        """Read messages until `enough` holds."""
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self.fold(await anext(aiter(stream)))
