"""What every RPC works with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration

from hostmanager_server.core.events import Instant
from hostmanager_server.core.spec import LogPolicy, Management
from hostmanager_server.drivers.compose.logs.demultiplexer import OutputLine
from hostmanager_server.drivers.compose.pull.progress import ImageProgress, PullItem, PullState
from hostmanager_server.drivers.compose.pull.progress_board import PullChanges
from hostmanager_server.rpc.convert import Daemon, InstanceConverter, token
from hostmanager_server.rpc.errors import FieldViolation, from_request_error, invalid
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.joined import Joined
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import RequestError, Supervisor

T = TypeVar("T")

DEFAULT_HEARTBEAT = 15.0
MIN_HEARTBEAT, MAX_HEARTBEAT = 1.0, 3600.0
NANOS = 1_000_000_000  # in a second


class Line(Protocol):
    """A line of output; `continues` when it is a part and the next one goes on."""

    @property
    def text(self) -> str: ...
    @property
    def continues(self) -> bool: ...


class OutputReader(Protocol):
    """Reads what instances wrote."""

    def read(
        self, instance_id: str, policy: LogPolicy, lines: int, *, follow: bool
    ) -> AsyncGenerator[Sequence[Line], None]:
        """The last `lines` lines, then with `follow` every new one, in batches."""


class PullProgress(Protocol):
    """See drivers.compose.pull."""

    def subscribe(self, listener: Callable[[], None]) -> None: ...
    def unsubscribe(self, listener: Callable[[], None]) -> None: ...
    def changes(self, since: int) -> PullChanges: ...
    def counts(self) -> Mapping[PullState, int]: ...
    def leave(self) -> None: ...


class DockerEngine(Protocol):
    """The docker engine, as far as clients may use it. See drivers.compose.access."""

    @property
    def pulling(self) -> bool: ...
    def problem(self) -> str: ...
    def join_pull(
        self,
        items: Sequence[PullItem],
        *,
        detach: bool,
        progress_timeout: float,
        ended: Callable[[Sequence[ImageProgress]], None],
    ) -> tuple[PullProgress, bool]: ...
    async def remove_container(
        self, container_id: str, stop_timeout: float, is_orphan: Callable[[], bool]
    ) -> str: ...
    def read_logs(
        self, containers: AsyncIterator[Sequence[str]], lines: int, *, follow: bool
    ) -> AsyncGenerator[list[OutputLine], None]: ...


@dataclass(frozen=True, slots=True)
class RpcContext:
    """Built once by the composition root."""

    daemon: Daemon
    store: Store
    supervisor: Supervisor
    hub: Hub
    convert: InstanceConverter
    outputs: OutputReader
    now: Callable[[], Instant]
    exit_daemon: Callable[[frozenset[Management]], None]  # leaving what is managed so to the next daemon
    upgrade_daemon: Callable[[bool], Awaitable[str]]  # or only find out whether it could be; the new version

    engine: DockerEngine | None = None  # None: no compose files are managed
    # Why the engine cannot be used; empty when it can. However many ask, one look at it is under way.
    engine_problem: Joined[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "engine_problem", Joined(self._look_at_engine))

    async def _look_at_engine(self) -> str:
        assert self.engine is not None
        return await asyncio.to_thread(self.engine.problem)

    def token(self, position: int) -> str:
        return token(self.daemon.epoch, position)


async def carry_out(future: Future[T], entries: str = "requests") -> T:
    """The outcome of a supervisor's request. Raises RpcError when it was rejected; `entries` is the path of
    the request's field that bad entries are counted in."""
    try:
        return await asyncio.wrap_future(future)
    except RequestError as error:
        raise from_request_error(error, entries) from error


def duration(given: Duration, field: str, least: float, most: float) -> float:
    """A field of the request in s. Raises RpcError when it is not `least` to `most` s."""
    bounds = f"{field} must be {least:.15g} s to {most:.15g} s"
    sign = -1 if given.seconds < 0 or given.nanos < 0 else 1
    if abs(given.nanos) >= NANOS or given.seconds * sign < 0 or given.nanos * sign < 0:
        text = (
            f"{bounds}, and {given.seconds} s with {given.nanos} nanos is no duration: nanos go from "
            f"{1 - NANOS} to {NANOS - 1}, with the sign of the seconds"
        )
        raise invalid(text, FieldViolation(field, text))
    exact = Decimal(given.seconds) + Decimal(given.nanos) / NANOS
    if not Decimal(least) <= exact <= Decimal(most):
        text = f"{bounds}, not {exact.normalize():f} s"
        raise invalid(text, FieldViolation(field, text))
    return float(exact)


def heartbeat_interval(given: Duration, is_set: bool) -> float:
    """The longest silence a stream is to have, in s. Raises RpcError when it is out of range."""
    if not is_set:
        return DEFAULT_HEARTBEAT
    return duration(given, "heartbeat_interval", MIN_HEARTBEAT, MAX_HEARTBEAT)


def page_size(given: int, default: int) -> int:
    """Entries a page. Raises RpcError when it is out of range."""
    if not 0 <= given <= 1000:
        text = f"page_size must be 1 to 1000, or 0 for the default ({default}), not {given}"
        raise invalid(text, FieldViolation("page_size", text))
    return given or default
