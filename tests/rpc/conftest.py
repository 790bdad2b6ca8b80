"""A real server on a unix socket, with the real supervisor over fake agents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
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
from hostmanager_server.core.spec import HostSpec, InstanceSpec, LogPolicy, Management, ProcessSpec, Target
from hostmanager_server.drivers.compose.logs.demultiplexer import OutputLine, Source
from hostmanager_server.drivers.compose.pull.progress import ImageProgress, PullItem, PullState
from hostmanager_server.drivers.compose.pull.progress_board import PullChanges
from hostmanager_server.drivers.contract import Driver, Poller, PostEvent
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert import DaemonInfo
from hostmanager_server.rpc.convert_instance import InstanceConverter
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.ports import Line
from hostmanager_server.rpc.server import Limits, Server, parse_listen
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import CallSoon, ReplacingError, Supervisor, UpgradeError, now

from tests.fakes.driver import FakeDriver, FakeHost
from tests.in_memory import MemoryJournal, ReadConfig

T = TypeVar("T")
PATIENCE = 60.0  # s, for what takes milliseconds on a quiet machine
LONG_FOR_A_CLIENT = 0.2  # s, some hundred times what an answer takes


@dataclass(frozen=True, slots=True)
class TextLine:
    text: str
    continues: bool = False


class FakeOutputs:
    """Every instance wrote the lines 1 to 5, and with `follow` writes nothing more."""

    async def read(
        self, instance_id: str, policy: LogPolicy, lines: int, *, follow: bool
    ) -> AsyncGenerator[Sequence[Line], None]:
        last = [TextLine(f"{instance_id} {n}") for n in range(1, 6)][5 - min(lines, 5) :]
        if last:
            yield last
        if follow:
            await asyncio.Event().wait()


class FakePull:
    """A pull that a test moves on."""

    def __init__(self, items: Sequence[PullItem], ended: Callable[[Sequence[ImageProgress]], None]) -> None:
        self.ended = ended
        self.images = {item.image: ImageProgress(item.image, item.instance_ids) for item in items}
        self.versions = dict.fromkeys(self.images, 0)
        self.version = 0
        self.over = not items
        self.listeners: list[Callable[[], None]] = []
        self.followers = 0
        self.asked_since = -1  # the newest version that somebody has been told of

    def put(self, image: ImageProgress, *, over: bool = False) -> None:
        self.version += 1
        self.images[image.image] = image
        self.versions[image.image] = self.version
        if over:
            self.ended(list(self.images.values()))
        self.over = over
        for listener in self.listeners:
            listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        self.listeners.remove(listener)

    def changes(self, since: int) -> PullChanges:
        self.asked_since = self.version
        changed = tuple(image for name, image in self.images.items() if self.versions[name] > since)
        return PullChanges(self.version, changed, self.over)

    def counts(self) -> Mapping[PullState, int]:
        states = [image.state for image in self.images.values()]
        return {state: states.count(state) for state in PullState}

    def leave(self) -> None:
        self.followers -= 1


class FakeEngine:
    """An engine that is there unless `why` says otherwise; containers in `refuses` cannot be removed."""

    def __init__(self) -> None:
        self.why = ""
        self.pull: FakePull | None = None
        self.asked: list[tuple[tuple[PullItem, ...], bool, float]] = []
        self.removed: list[tuple[str, float]] = []
        self.refuses: dict[str, str] = {}
        self.on_removal: Callable[[str], None] = lambda _: None

    @property
    def pulling(self) -> bool:
        return self.pull is not None and not self.pull.over

    def problem(self) -> str:
        return self.why

    def join_pull(
        self,
        items: Sequence[PullItem],
        *,
        detach: bool,
        progress_timeout: float,
        ended: Callable[[Sequence[ImageProgress]], None],
    ) -> tuple[FakePull, bool]:
        self.asked.append((tuple(items), detach, progress_timeout))
        joined = self.pulling
        if self.pull is None or not joined:
            self.pull = FakePull(items, ended)
        self.pull.followers += 1
        return self.pull, joined

    async def read_logs(
        self, containers: AsyncIterator[Sequence[str]], lines: int, *, follow: bool
    ) -> AsyncGenerator[list[OutputLine], None]:
        """A line for each container, in the order in which they come."""
        async for ids in containers:
            for container in ids:
                yield [OutputLine(container, False, Source.STDERR)]
            if not follow:
                return

    async def remove_container(
        self, container_id: str, stop_timeout: float, is_orphan: Callable[[], bool]
    ) -> str:
        await asyncio.sleep(0)  # it takes a thread's time
        if not is_orphan():
            return "it was left alone"
        self.removed.append((container_id, stop_timeout))
        if container_id not in self.refuses:
            self.on_removal(container_id)
        return self.refuses.get(container_id, "")


def spec(instance_id: str, agent_class: str = "Agent", target: Target = Target.UP) -> InstanceSpec:
    return InstanceSpec(instance_id, agent_class, initial_target=target, process=ProcessSpec((instance_id,)))


class ServerHarness:
    """One daemon's server half, and clients of it."""

    def __init__(self, directory: Path, specs: Sequence[InstanceSpec], removals_kept: int) -> None:
        self.config = ReadConfig(HostSpec("host", tuple(specs)))
        self.epoch = "e0"
        self.died: list[frozenset[Management]] = []
        self.gives_way = False
        self.upgrades: list[bool] = []  # whether each was to be found out only
        self.cannot_upgrade = ""
        self.addresses: list[str] = []
        self.engine = FakeEngine()
        self.server: Server  # set by `server_harness`
        self.channels: list[grpc.aio.Channel] = []
        self.address = f"unix:{directory}/s"
        self.store = Store(
            self.epoch, ManagerStatus(ManagerState.STOPPED, "host", "site.yaml"), removals_kept=removals_kept
        )
        self.supervisor = Supervisor(
            self.store, lambda: self.config, self._driver, MemoryJournal(), lambda: None
        )
        self.hub = Hub(self.store)
        self.context = RpcContext(
            DaemonInfo("0.0", self.epoch, 1, now()), self.store, self.supervisor, self.hub,
            InstanceConverter(lambda spec: f"/logs/{spec.instance_id}"), FakeOutputs(), now, self._exit,
            self._upgrade, self.engine,
        )  # fmt: skip

    def _exit(self, disown: frozenset[Management]) -> None:
        if self.gives_way:
            raise ReplacingError
        self.died.append(disown)

    async def _upgrade(self, validate_only: bool) -> str:
        if self.cannot_upgrade:
            raise UpgradeError(self.cannot_upgrade)
        self.upgrades.append(validate_only)
        return "9.9"

    def _driver(self, poller: Poller, post: PostEvent, call_soon: CallSoon) -> Driver:
        self.host = FakeHost(poller)
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
        """What waits for the supervisor comes later than what does not."""
        self.supervisor.call_soon(lambda: time.sleep(LONG_FOR_A_CLIENT))

    def settled(self) -> bool:
        """Whether everything whose target is up is."""
        instances = [t.instance for t in self.store.snapshot().instances.values()]
        return all(i.standing.state is State.UP for i in instances if i.wanted.target is Target.UP)

    async def restart(self, instance_id: str) -> None:
        """Has an instance restarted, and waits until it is up again."""
        before = self.host.run_of(instance_id)
        await self.stub().Restart(pb.RestartRequest(instance_ids=[instance_id]))

        def anew() -> bool:
            run = self.host.run_of(instance_id)
            return run is not None and run is not before

        await until(anew)
        await until(self.settled)

    @property
    def watchers(self) -> int:
        """Streams that clients hold."""
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
    """A served ServerHarness, its manager started and everything up."""
    it = ServerHarness(directory, specs, removals_kept)
    if not compose:
        it.context = replace(it.context, engine=None)
    listen = [parse_listen(it.address, insecure=False)]
    if tcp:
        listen.append(parse_listen("127.0.0.1:0", insecure=True))
    server = Server(it.context, listen, limits, tcp_reflection=tcp_reflection)
    it.server = server
    it.addresses = server.bind()
    await server.serve()
    it.supervisor.start()
    try:
        if started:
            await asyncio.wrap_future(it.supervisor.start_manager())
            await until(it.settled)
        yield it
    finally:
        for channel in it.channels:
            await channel.close()
        await server.stop()
        it.supervisor.close(disown=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fails after PATIENCE."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event to tell of it
            await asyncio.sleep(0.005)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Play a test on a loop of its own."""
    asyncio.run(asyncio.wait_for(test, PATIENCE * 1.5))


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call failed, with its google.rpc details."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    violations: dict[str, str]


async def refused(call: Awaitable[object]) -> Refusal:
    """The refusal of a call that has to fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def messages(call: Any) -> list[Any]:
    """What is left of a stream."""
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


class View:
    """What a reader of WatchStatus knows, checking the order of what it is told."""

    def __init__(self) -> None:
        self.revision = 0
        self.token = ""
        self.instances: dict[str, pb.ManagedInstance] = {}
        self.manager: pb.ManagerStatus | None = None
        self.reasons: list[int] = []
        self.pieces = 0
        self.heartbeats = 0

    def fold(self, message: pb.WatchStatusResponse) -> None:
        assert message.revision >= self.revision, "revisions never go back"
        kind = message.WhichOneof("update")
        if kind == "snapshot":
            piece = message.snapshot
            if piece.first:
                self.instances, self.pieces = {}, 0
                self.reasons.append(piece.reason)
                self.manager = piece.manager
            self.pieces += 1
            self.instances.update((i.instance_id, i) for i in piece.instances)
            assert bool(message.resume_token) == piece.last
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
        """Read until it is enough."""
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self.fold(await anext(aiter(stream)))
