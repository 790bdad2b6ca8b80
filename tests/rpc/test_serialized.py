"""Serialized parts of answers, compared with messages built from the present state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import Instance, new_instance
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.core.stability import WINDOW
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.child_states import ChildStates
from hostmanager_server.rpc.convert_instance import InstanceConverter, child_state
from hostmanager_server.rpc.convert_watch import delta_message, snapshot_message
from hostmanager_server.rpc.wire import embedded, repeated
from hostmanager_server.state.store import Store, Tracked
from hypothesis import given
from hypothesis import strategies as st

STOPPED = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
RUNNING = replace(STOPPED, state=ManagerState.RUNNING)
DAEMON = convert.DaemonInfo("1", "epoch", 1, Instant(0.0, 0.0))

IDS = st.sampled_from([*"abcdef", "x" * 200])  # of one and of two bytes of length
CHANGES = st.lists(
    st.tuples(
        st.dictionaries(IDS, st.tuples(st.integers(0, 2), st.booleans()), max_size=4),
        st.sets(IDS, max_size=3),
        st.sampled_from([None, STOPPED, RUNNING]),
        st.floats(0.0, WINDOW),  # s until the next change
        st.integers(0, 2),  # answers after the change
    ),
    max_size=15,
)


def instance(instance_id: str, variant: int, failed: tuple[Instant, ...] = ()) -> Instance:
    new = new_instance(InstanceSpec(instance_id, f"Class{variant}"))
    return replace(new, standing=replace(new.standing, fail_times=failed))


def fresh_status(store: Store, now: Instant) -> pb.GetStatusResponse:
    snapshot = store.snapshot()
    return pb.GetStatusResponse(
        manager=convert.manager_status(snapshot.manager, DAEMON),
        child_states=[child_state(snapshot.instances[i].instance, now) for i in sorted(snapshot.instances)],
    )


@given(changes=CHANGES, removals_kept=st.integers(0, 3))
def test_the_kept_status_equals_a_fresh_one_after_any_changes(
    changes: list[tuple[dict[str, tuple[int, bool]], set[str], ManagerStatus | None, float, int]],
    removals_kept: int,
) -> None:
    store = Store("epoch", STOPPED, removals_kept=removals_kept)
    states = ChildStates(store, DAEMON)
    convert_instance = InstanceConverter(lambda spec: "log")
    now = Instant(1000.0, 1000.0)
    for changed, removed, manager, pause, answers in changes:
        failed = (now,)
        store.publish(
            [instance(i, variant, failed if fails else ()) for i, (variant, fails) in changed.items()],
            removed,
            manager,
        )
        now = now.plus(pause)
        for _ in range(answers):
            assert pb.GetStatusResponse.FromString(states.at(now)) == fresh_status(store, now)
            assert states.revision == store.revision
            for tracked in store.snapshot().instances.values():
                kept = pb.ManagedInstance.FromString(convert_instance(tracked, now))
                fresh = InstanceConverter(lambda spec: "log")(tracked, now)
                assert kept == pb.ManagedInstance.FromString(fresh)
            now = now.plus(pause)
        assert store.snapshot().ids == tuple(sorted(store.snapshot().instances))


def test_a_change_of_one_instance_converts_that_instance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[str] = []

    def counted(changed: Instance, now: Instant) -> pb.ChildState:
        converted.append(changed.instance_id)
        return child_state(changed, now)

    monkeypatch.setattr("hostmanager_server.rpc.child_states.child_state", counted)
    store, now = Store("epoch", RUNNING), Instant(1.0, 1.0)
    states = ChildStates(store, DAEMON)
    store.publish([instance(i, 0) for i in "abc"])
    first = states.at(now)
    assert states.at(now.plus(1)) is first
    store.publish([instance("b", 1)])
    states.at(now)
    assert converted == ["a", "b", "c", "b"]


def test_messages_of_instances_that_went_are_dropped() -> None:
    convert_instance = InstanceConverter(lambda spec: "log")
    now = Instant(1.0, 1.0)
    for number in range(1000):
        tracked = Tracked(instance(f"i{number}", 0), number)
        convert_instance.forget_others({tracked.instance.instance_id: tracked})
        convert_instance(tracked, now)
    assert len(convert_instance._made) < 150


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 3_000_000])
def test_parts_of_any_length_are_joined_to_a_valid_message(size: int) -> None:
    state = pb.ChildState(instance_id="x" * size)
    part = state.SerializeToString()
    expected = pb.GetStatusResponse(child_states=[state, state])
    number = pb.GetStatusResponse.CHILD_STATES_FIELD_NUMBER
    assert pb.GetStatusResponse.FromString(repeated(number, [part, part])) == expected
    assert pb.GetStatusResponse.FromString(embedded(number, part) * 2) == expected


def test_messages_of_a_watch_are_complete() -> None:
    now = Instant(5.0, 5.0)
    parts = [pb.ManagedInstance(instance_id=i).SerializeToString() for i in "ab"]
    manager = pb.ManagerStatus(host="h")
    reason = pb.StatusSnapshot.REASON_INITIAL
    chunk = pb.WatchStatusResponse.FromString(snapshot_message(7, now, "token", reason, manager, parts))
    instances = [pb.ManagedInstance(instance_id=i) for i in "ab"]
    assert chunk == pb.WatchStatusResponse(
        revision=7, time=convert.timestamp(now), resume_token="token",
        snapshot=pb.StatusSnapshot(
            reason=reason, manager=manager, instances=instances, first=True, last=True
        ),
    )  # fmt: skip
    delta = pb.WatchStatusResponse.FromString(delta_message(8, now, "t", parts, ["c"], manager))
    assert delta == pb.WatchStatusResponse(
        revision=8, time=convert.timestamp(now), resume_token="t",
        delta=pb.StatusDelta(instances=instances, removed_instance_ids=["c"], manager=manager),
    )  # fmt: skip
    empty = pb.WatchStatusResponse.FromString(delta_message(8, now, "t", [], ["c"]))
    assert empty.delta.removed_instance_ids == ["c"]
