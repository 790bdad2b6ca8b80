"""The store, compared with a simple model: changes, removals, events and listeners."""

from __future__ import annotations

import threading

import pytest
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import Instance, new_instance
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.state.store import Snapshot, Store, StoreChanges
from hypothesis import given
from hypothesis import strategies as st

STOPPED = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
RUNNING = ManagerStatus(ManagerState.RUNNING, "host", "site.yaml")
ENTRY = LogEntry(EntryKind.DAEMON, "Test", "something happened", Instant(1.0, 1.0))

IDS = st.sampled_from("abcdef")
PUBLICATIONS = st.lists(
    st.tuples(
        st.dictionaries(IDS, st.integers(0, 3), max_size=4),
        st.sets(IDS, max_size=3),
        st.sampled_from([None, STOPPED, RUNNING]),
    ),
    max_size=25,
)


def instance(instance_id: str, variant: int) -> Instance:
    return new_instance(InstanceSpec(instance_id, f"Class{variant}"))


def state_of(snapshot: Snapshot) -> tuple[ManagerStatus, dict[str, Instance]]:
    return snapshot.manager, {i: tracked.instance for i, tracked in snapshot.instances.items()}


def apply(
    before: tuple[ManagerStatus, dict[str, Instance]], changes: StoreChanges
) -> tuple[ManagerStatus, dict[str, Instance]]:
    manager, instances = before
    instances = {i: value for i, value in instances.items() if i not in changes.removed}
    instances.update({t.instance.instance_id: t.instance for t in changes.instances})
    return changes.manager or manager, instances


@given(publications=PUBLICATIONS, removals_kept=st.integers(0, 3))
def test_the_changes_since_any_revision_lead_to_the_present_state(
    publications: list[tuple[dict[str, int], set[str], ManagerStatus | None]], removals_kept: int
) -> None:
    store = Store("epoch", STOPPED, removals_kept=removals_kept)
    history = {store.revision: state_of(store.snapshot())}
    last_removal: dict[str, int] = {}
    for changed, removed, manager in publications:
        before = history[store.revision][1]
        gone = (before.keys() | changed.keys()) & removed
        revision = store.publish([instance(*c) for c in changed.items()], removed, manager)
        history[revision] = state_of(store.snapshot())
        expected = {**before, **{i: instance(i, v) for i, v in changed.items()}}
        assert history[revision][1] == {i: value for i, value in expected.items() if i not in removed}
        last_removal.update(dict.fromkeys(gone, revision))
        for cursor, then in history.items():
            changes = store.changes_since(cursor)
            if changes is None:
                after = [r for r in last_removal.values() if r > cursor]
                assert after, "a cursor without later removals always gets an answer"
            else:
                assert apply(then, changes) == history[revision]
                assert changes.revision == revision
                assert [t.revision for t in changes.instances] == sorted(
                    t.revision for t in changes.instances
                )
                assert all(t.revision > cursor for t in changes.instances)


def test_removals_are_kept_up_to_the_limit() -> None:
    store = Store("epoch", STOPPED, removals_kept=3)
    store.publish([instance(i, 0) for i in "abc"])
    cursor = store.revision
    for i in "abc":
        store.publish(removed=[i])
    changes = store.changes_since(cursor)
    assert changes is not None
    assert changes.removed == ("a", "b", "c")
    store.publish([instance("d", 0)])
    store.publish(removed=["d"])
    assert store.changes_since(cursor) is None, "the store dropped the removal of a"
    assert store.changes_since(cursor + 1) is not None, "a cursor past that removal still gets an answer"


def test_a_future_revision_gets_no_answer() -> None:
    store = Store("epoch", STOPPED)
    assert store.changes_since(store.revision + 1) is None


def test_the_present_revision_has_no_changes_after_it() -> None:
    store = Store("epoch", STOPPED)
    store.publish([instance("a", 0)])
    changes = store.changes_since(store.revision)
    assert changes is not None
    assert changes.empty


def test_an_equal_manager_status_is_no_change() -> None:
    store = Store("epoch", STOPPED)
    cursor = store.revision
    store.publish(manager=ManagerStatus(ManagerState.STOPPED, "host", "site.yaml"))
    changes = store.changes_since(cursor)
    assert changes is not None
    assert changes.manager is None


def test_a_snapshot_never_changes() -> None:
    store = Store("epoch", STOPPED)
    store.publish([instance("a", 0)])
    snapshot = store.snapshot()
    before = snapshot.revision, state_of(snapshot)
    store.publish([instance("a", 1), instance("b", 0)], manager=RUNNING)
    store.publish(removed=["a"])
    assert (snapshot.revision, state_of(snapshot)) == before
    assert store.snapshot() is store.snapshot(), "one snapshot serves all readers of a revision"


@given(batches=st.lists(st.integers(0, 4), max_size=20), kept=st.integers(1, 8), cursor=st.integers(0, 90),
       limit=st.none() | st.integers(1, 5))  # fmt: skip
def test_a_gap_in_the_events_is_counted(
    batches: list[int], kept: int, cursor: int, limit: int | None
) -> None:
    store = Store("epoch", STOPPED, events_kept=kept)
    for count in batches:
        store.publish(entries=[ENTRY] * count)
    total = sum(batches)
    remembered = range(max(1, total - kept + 1), total + 1)
    page = store.events_since(cursor, limit)
    assert [e.sequence for e in page.events] == [s for s in remembered if s > cursor][:limit]
    assert page.missed == len([s for s in range(1, total + 1) if s > cursor and s not in remembered])
    again = store.events_since(page.last)
    assert again.missed == 0, "missed events are counted once"
    assert [e.sequence for e in (*page.events, *again.events)] == [s for s in remembered if s > cursor]


def test_listeners_are_notified_of_every_publication_until_they_unsubscribe() -> None:
    store = Store("epoch", STOPPED)
    notified: list[int] = []

    def listen() -> None:
        notified.append(store.revision)

    store.subscribe(listen)
    revisions = [store.publish(), store.publish()]
    store.unsubscribe(listen)
    store.publish()
    assert notified == revisions


@pytest.mark.parametrize("removals_kept", [1, 1000])
def test_readers_on_other_threads_converge_while_one_writes(removals_kept: int) -> None:
    store = Store("epoch", STOPPED, removals_kept=removals_kept)
    done = threading.Event()
    failures: list[str] = []

    def read() -> None:
        snapshot = store.snapshot()
        cursor, state = snapshot.revision, state_of(snapshot)
        last_round = False
        while True:
            changes = store.changes_since(cursor)
            if changes is None:
                snapshot = store.snapshot()
                revision, state = snapshot.revision, state_of(snapshot)
            else:
                revision, state = changes.revision, apply(state, changes)
            if revision < cursor:
                failures.append(f"revision {revision} came after {cursor}")
            cursor = revision
            if last_round:
                break
            last_round = done.is_set()
        if state != state_of(store.snapshot()):
            failures.append(f"a reader ended with {state}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(2000):
        store.publish([instance("abcdef"[turn % 6], turn % 4)], ["fedcba"[turn % 5]] if turn % 3 else [])
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
