"""The fold of a watch without IO: convergence without repeats after any history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.errors import NotFound, ServerBug, Unreachable
from hostmanager_client.log_stream import overlap
from hostmanager_client.reconnect import Disconnected, Link, Reconnect, Reconnected
from hostmanager_client.state import StatusFold, StatusUpdate
from hostmanager_client.streams import StatusStream
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class FoldModel:
    """A model of the daemon: changes, compacted removals, restarts."""

    epoch: int = 1
    revision: int = 1
    instances: dict[str, tuple[int, int]] = field(default_factory=dict)  # value, revision
    removals: dict[str, int] = field(default_factory=dict)
    compacted: int = 0

    def change(self, instance_id: str, value: int) -> None:
        self.revision += 1
        self.instances[instance_id] = (value, self.revision)
        self.removals.pop(instance_id, None)

    def remove(self, instance_id: str) -> None:
        if instance_id in self.instances:
            self.revision += 1
            del self.instances[instance_id]
            self.removals[instance_id] = self.revision

    def compact(self) -> None:
        self.compacted = self.revision
        self.removals.clear()

    def restart(self) -> None:
        self.epoch += 1
        self.revision, self.compacted = 1, 0
        self.removals.clear()
        self.instances = {i: (value, 1) for i, (value, _) in self.instances.items()}

    def message(self, instance_ids: list[str], revision: int) -> pb.WatchStatusResponse:
        return pb.WatchStatusResponse(revision=revision, resume_token=f"{self.epoch}:{revision}")

    def instance(self, instance_id: str) -> pb.ManagedInstance:
        value, revision = self.instances[instance_id]
        return pb.ManagedInstance(instance_id=instance_id, restart_count=value, revision=revision)

    def stream(self, token: str, pieces: int) -> Iterator[pb.WatchStatusResponse]:
        """Yield the messages of a watch from `token` on, each with the state at its time."""
        epoch, _, revision = token.partition(":")
        cursor = int(revision) if revision else -1
        if not token or int(epoch) != self.epoch or cursor < self.compacted or cursor > self.revision:
            cursor = self.revision
            instances = [self.instance(i) for i in self.instances]
            manager = pb.ManagerStatus(epoch=str(self.epoch))
            at = self.message([], cursor)
            for n in range(pieces):
                piece = pb.WatchStatusResponse()
                piece.CopyFrom(at)
                piece.snapshot.first, piece.snapshot.last = n == 0, n == pieces - 1
                piece.snapshot.reason = pb.StatusSnapshot.REASON_INITIAL
                piece.snapshot.instances.extend(instances[n::pieces])
                if n == 0:
                    piece.snapshot.manager.CopyFrom(manager)
                yield piece
        while True:
            message = self.message([], self.revision)
            changed = [self.instance(i) for i, (_, r) in self.instances.items() if r > cursor]
            removed = [i for i, r in self.removals.items() if r > cursor]
            cursor = self.revision
            if changed or removed:
                message.delta.instances.extend(changed)
                message.delta.removed_instance_ids.extend(removed)
            else:
                message.heartbeat.SetInParent()
            yield message


IDS = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.one_of(
    st.tuples(st.just("change"), IDS, st.integers(0, 3)),
    st.tuples(st.just("remove"), IDS, st.just(0)),
    st.tuples(st.sampled_from(["compact", "restart", "disconnect"]), st.just(""), st.just(0)),
    st.tuples(st.just("read"), st.just(""), st.integers(1, 4)),
)


class FoldedWatcher:
    """A reader that folds the stream of a model and checks every update."""

    def __init__(self, model: FoldModel, pieces: int) -> None:
        self.model = model
        self.pieces = pieces
        self.fold = StatusFold()
        self.view: dict[str, pb.ManagedInstance] = {}
        self.connection: Iterator[pb.WatchStatusResponse] | None = None

    def disconnect(self) -> None:
        self.connection = None
        self.fold.disconnected()

    def read(self, count: int) -> None:
        if self.connection is None:
            self.connection = self.model.stream(self.fold.resume_token, self.pieces)
        for _ in range(count):
            before = self.fold.resume_token
            message = next(self.connection)
            self.check(self.fold.receive(message))
            part = message.WhichOneof("update") == "snapshot" and not message.snapshot.last
            assert self.fold.resume_token == (before if part else message.resume_token)

    def check(self, update: StatusUpdate | None) -> None:
        if update is None:
            return
        for instance_id in update.changed:
            new = update.state.instances[instance_id]
            assert self.view.get(instance_id) != new, "a repeat"
            self.view[instance_id] = new
        for instance_id in update.removed:
            del self.view[instance_id]
        assert self.view == dict(update.state.instances)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60), st.integers(1, 4))
def test_any_history_converges_without_repeats(steps: list[tuple[str, str, int]], pieces: int) -> None:
    model = FoldModel()
    watcher = FoldedWatcher(model, pieces)
    for kind, instance_id, number in steps:
        match kind:
            case "change":
                model.change(instance_id, number)
            case "remove":
                model.remove(instance_id)
            case "compact":
                # A real daemon would send a snapshot; the model drops the stream, a harder case.
                model.compact()
                watcher.disconnect()
            case "restart":
                model.restart()
                watcher.disconnect()
            case "disconnect":
                watcher.disconnect()
            case "read":
                watcher.read(number)
    watcher.read(pieces + 1)
    counts = {instance_id: instance.restart_count for instance_id, instance in watcher.view.items()}
    assert counts == {instance_id: value for instance_id, (value, _) in model.instances.items()}


def piece(*ids: str, first: bool, last: bool, token: str = "1:5") -> pb.WatchStatusResponse:
    snapshot = pb.StatusSnapshot(
        first=first, last=last, instances=[pb.ManagedInstance(instance_id=i) for i in ids]
    )
    return pb.WatchStatusResponse(revision=5, resume_token=token, snapshot=snapshot)


def test_an_incomplete_snapshot_changes_neither_view_nor_token() -> None:
    fold = StatusFold()
    fold.receive(piece("a", first=True, last=True, token="1:1"))
    fold.receive(piece("b", first=True, last=False, token="1:5"))
    fold.disconnected()
    assert fold.resume_token == "1:1"
    assert fold.state is not None
    assert list(fold.state.instances) == ["a"]
    with pytest.raises(ServerBug, match="without the first"):
        fold.receive(piece("c", first=False, last=True))


def test_a_change_before_any_snapshot_makes_the_watch_start_over() -> None:
    stream = StatusStream()
    delta = pb.WatchStatusResponse(revision=3, resume_token="1:3", delta=pb.StatusDelta())
    with pytest.raises(Unreachable, match="before the first snapshot"):
        stream.receive(delta)
    assert stream.request().resume_token == ""


def test_an_older_state_of_an_instance_does_not_replace_a_newer_one() -> None:
    fold = StatusFold()
    new, old = (
        pb.ManagedInstance(instance_id="a", revision=5),
        pb.ManagedInstance(instance_id="a", revision=4),
    )
    snapshot = pb.StatusSnapshot(first=True, last=True, instances=[new])
    fold.receive(pb.WatchStatusResponse(revision=5, snapshot=snapshot))
    assert fold.receive(pb.WatchStatusResponse(revision=6, delta=pb.StatusDelta(instances=[old]))) is None


def test_pauses_double_to_their_longest_and_jitter_only_shortens_them() -> None:
    policy = Reconnect(first=0.1, longest=1.0, jitter=0.5)
    assert [policy.pause(n, 0.0) for n in (1, 2, 3, 4, 5, 100)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert policy.pause(5, 1.0) == 0.5


def test_a_message_resets_the_pause() -> None:
    changes: list[Disconnected | Reconnected] = []
    link = Link(Reconnect(jitter=0), changes.append, lambda: 0.0)
    link.received(0.0, complete=True)
    assert [link.lost(Unreachable("gone"), 1.0) for _ in range(3)] == [0.1, 0.2, 0.4]
    link.received(9.0, complete=False)
    assert changes[-1] == Reconnected(8.0, False)
    assert link.lost(Unreachable("gone"), 10.0) == 0.1


def test_a_permanent_error_is_raised() -> None:
    link = Link(Reconnect())
    link.received(0.0, complete=True)
    with pytest.raises(NotFound):
        link.lost(NotFound("no such instance"), 1.0)


def test_the_give_up_time_counts_from_the_start_of_the_outage() -> None:
    link = Link(Reconnect(first=1, longest=100, jitter=0, give_up_after=10))
    link.received(0.0, complete=True)
    assert link.lost(Unreachable("gone"), 5.0) == 1
    assert link.lost(Unreachable("gone"), 14.0) == 1, "no pause lasts beyond the limit"
    with pytest.raises(Unreachable):
        link.lost(Unreachable("gone"), 15.0)


@pytest.mark.parametrize(
    ("known", "again", "skipped"),
    [
        ("", "abc", 0),
        ("abc", "abc", 3),
        ("abc", "abcde", 3),
        ("abc", "bcde", 2),
        ("abc", "cde", 1),
        ("abc", "xyz", None),
        ("abc", "", None),
        ("aaa", "aaab", 3),
        ("abab", "abababc", 6),
    ],
)
def test_the_overlap_of_known_and_new_lines_is_found(known: str, again: str, skipped: int | None) -> None:
    assert overlap(list(known), list(again)) == skipped
