"""The state of a host, folded from the messages of WatchStatus.

This module is pure. A snapshot takes effect with its last piece only; an incomplete snapshot changes neither
the state nor the resume token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType

from hostmanager.values import dataclass, field, replace

from hostmanager_client.errors import ServerBug
from hostmanager_client.receive_limits import MOST_INSTANCES, ReceiveLimit
from hostmanager_client.words import snapshot_word, to_datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb


@dataclass(frozen=True, slots=True)
class HostState:
    """The manager and the instances of a host at one revision.

    `instances` is sorted by instance id and never changes. Later states share its messages, so do not change
    the messages. A watch resumes at `resume_token`.
    """

    revision: int
    time: datetime
    manager: pb.ManagerStatus
    instances: Mapping[str, pb.ManagedInstance] = field(default_factory=lambda: MappingProxyType({}))
    resume_token: str = ""

    @property
    def epoch(self) -> str:
        """The epoch of the daemon in which `revision` counts."""
        return self.manager.epoch


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """The newest state, and its differences from the previous state.

    `snapshot` is empty for an ordinary change. After a full snapshot, `snapshot` has its reason (`initial`,
    `epoch_changed`, `history_compacted`, `slow_consumer`); `changed` and `removed` still list only the
    differences.
    """

    state: HostState
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    manager_changed: bool
    snapshot: str = ""


def make_state(
    status: pb.GetStatusResponse, instances: Iterable[pb.ManagedInstance], revision: int
) -> HostState:
    """Return a state from the answers of GetStatus and ListInstances; the token is that of `status`."""
    return HostState(
        revision=max(status.revision, revision),
        time=to_datetime(status.time),
        manager=status.manager,
        instances=_frozen({i.instance_id: i for i in instances}),
        resume_token=status.resume_token,
    )


class StatusFold:
    """Folds the messages of one watch into states, over all connections of the watch."""

    def __init__(self, since: HostState | None = None) -> None:
        self._state = since
        self._pieces: dict[str, pb.ManagedInstance] | None = None  # of an incomplete snapshot
        self._pieces_manager: pb.ManagerStatus | None = None
        self._limit = ReceiveLimit("pieces of a snapshot")

    @property
    def state(self) -> HostState | None:
        """The newest complete state, or None."""
        return self._state

    @property
    def resume_token(self) -> str:
        """The token for the next connection; empty to ask for a snapshot."""
        return self._state.resume_token if self._state is not None else ""

    def disconnected(self) -> None:
        """Drop an incomplete snapshot, as the stream has ended."""
        self._pieces = self._pieces_manager = None

    def start_over(self) -> None:
        """Ask for a snapshot on the next connection; keep the state until the snapshot is complete."""
        self.disconnected()
        if self._state is not None:
            self._state = replace(self._state, resume_token="")

    def receive(self, message: pb.WatchStatusResponse) -> StatusUpdate | None:
        """Fold one message; return None if nothing changed (heartbeats, pieces of a snapshot).

        Raises ServerBug if the contract forbids the message at this position.
        """
        kind = message.WhichOneof("update")
        if kind == "snapshot":
            return self._snapshot(message)
        if self._pieces is not None:
            raise ServerBug("the daemon sent an incomplete snapshot")
        if self._state is None:
            raise ServerBug("the daemon sent changes before the first snapshot")
        if kind == "delta":
            return self._delta(self._state, message)
        self._state = replace(
            self._state, revision=message.revision, time=to_datetime(message.time),
            resume_token=message.resume_token,
        )  # fmt: skip
        return None

    def _snapshot(self, message: pb.WatchStatusResponse) -> StatusUpdate | None:
        piece = message.snapshot
        if piece.first:
            self._pieces, self._pieces_manager = {}, None
            self._limit = ReceiveLimit("pieces of a snapshot")
        if self._pieces is None:
            raise ServerBug("the daemon sent a later piece of a snapshot without the first")
        self._limit.count(message.ByteSize())
        self._pieces.update((i.instance_id, i) for i in piece.instances)
        if piece.HasField("manager"):
            self._pieces_manager = piece.manager
        if not piece.last:
            return None
        from hostmanager.v1 import host_manager_pb2 as pb

        instances, manager = self._pieces, self._pieces_manager or pb.ManagerStatus()
        self.disconnected()
        return self._replace_state(message, instances, manager, snapshot_word(piece.reason))

    def _delta(self, state: HostState, message: pb.WatchStatusResponse) -> StatusUpdate | None:
        delta = message.delta
        instances = dict(state.instances)
        for instance_id in delta.removed_instance_ids:
            instances.pop(instance_id, None)
        for instance in delta.instances:
            known = instances.get(instance.instance_id)
            if known is None or known.revision <= instance.revision:
                instances[instance.instance_id] = instance
        manager = delta.manager if delta.HasField("manager") else state.manager
        return self._replace_state(message, instances, manager, "")

    def _replace_state(
        self,
        message: pb.WatchStatusResponse,
        instances: dict[str, pb.ManagedInstance],
        manager: pb.ManagerStatus,
        snapshot: str,
    ) -> StatusUpdate | None:
        if len(instances) > MOST_INSTANCES:
            raise ServerBug(f"the daemon claims more than {MOST_INSTANCES} instances")
        before = self._state
        old = before.instances if before is not None else {}
        self._state = HostState(
            revision=message.revision,
            time=to_datetime(message.time),
            manager=manager,
            instances=_frozen(instances),
            resume_token=message.resume_token,
        )
        changed = tuple(i for i, new in instances.items() if old.get(i) != new)
        removed = tuple(i for i in old if i not in instances)
        manager_changed = before is None or before.manager != manager
        if not (changed or removed or manager_changed or snapshot):
            return None
        return StatusUpdate(self._state, changed, removed, manager_changed, snapshot)


def _frozen(instances: dict[str, pb.ManagedInstance]) -> Mapping[str, pb.ManagedInstance]:
    return MappingProxyType(dict(sorted(instances.items())))
