"""The dependencies of the RPC groups, as built by the composition root."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from hostmanager.values import dataclass, field

from hostmanager_server.core.events import Instant
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.spec import Management
from hostmanager_server.rpc.child_states import ChildStates
from hostmanager_server.rpc.convert import DaemonInfo
from hostmanager_server.rpc.convert_instance import InstanceConverter
from hostmanager_server.rpc.errors import from_request_error
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.ports import DockerEngine, OutputReader, OwnLog, UsageSource
from hostmanager_server.rpc.single_flight import SingleFlight
from hostmanager_server.rpc.tokens import write_token
from hostmanager_server.rpc.usage_sampler import UsageSampler
from hostmanager_server.state.event_history import EventHistory
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import RequestError, Supervisor

T = TypeVar("T")


class UpgradeDaemon(Protocol):
    """The function that upgrades the daemon in place."""

    async def __call__(self, *, validate_only: bool) -> str:
        """Replace the daemon by the installed version, or only check that the version starts.

        Returns the installed version. Raises RequestError when the upgrade is impossible.
        """


@dataclass(frozen=True, slots=True)
class RpcContext:
    """The dependencies shared by all RPC groups."""

    daemon: DaemonInfo
    store: Store
    history: EventHistory
    supervisor: Supervisor
    hub: Hub
    convert: InstanceConverter
    outputs: OutputReader
    now: Callable[[], Instant]
    # Ends the daemon. Instances of these kinds of management keep running, for the next daemon.
    exit_daemon: Callable[[frozenset[Management], Origin], None]
    upgrade_daemon: UpgradeDaemon
    meter: UsageSource

    engine: DockerEngine | None = None  # None: the daemon manages no compose files
    own_log: OwnLog = OwnLog(None)
    # A reader of event files takes the disk and the interpreter for itself.
    event_files: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Returns why the engine cannot be used, empty if it can; all callers share one inspection.
    engine_problem: SingleFlight[str] = field(init=False)
    child_states: ChildStates = field(init=False)
    usage: UsageSampler = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "child_states", ChildStates(self.store, self.daemon))
        object.__setattr__(self, "usage", UsageSampler(self.store, self.meter))
        object.__setattr__(self, "engine_problem", SingleFlight(self._inspect_engine))

    async def _inspect_engine(self) -> str:
        assert self.engine is not None
        return await asyncio.to_thread(self.engine.problem)

    def token(self, position: int) -> str:
        """Return a resume token for a position in this daemon's epoch."""
        return write_token(self.daemon.epoch, position)


async def carry_out(future: Future[T], entries: str = "requests") -> T:
    """Wait for the supervisor to carry out a request.

    Raises RpcError when the supervisor rejects the request. `entries` is the path of the repeated field that
    the supervisor's indexes of bad entries refer to.
    """
    try:
        return await asyncio.wrap_future(future)
    except RequestError as error:
        error.__traceback__ = None  # the future keeps the error until a garbage collection, see rpc.handlers
        raise from_request_error(error, entries) from None
