"""Streams of both clients over lost connections."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import (
    Disconnected,
    PermissionDenied,
    Reconnect,
    Reconnected,
    Unreachable,
    streams,
)

from tests.client.conftest import MakeClient
from tests.client.fake_daemon import FakeDaemon


def test_a_watch_begins_with_the_full_state_and_yields_changes(daemon: FakeDaemon, client: Any) -> None:
    for n in range(5):
        daemon.add(f"data{n}")
    updates = client.watch()
    first = next(updates)
    assert first.snapshot == "initial"
    assert list(first.state.instances) == [f"data{n}" for n in range(5)] == list(first.changed)
    daemon.change("data3", next_action=pb.NEXT_ACTION_START_AT)
    second = next(updates)
    assert second.changed == ("data3",)
    assert second.snapshot == ""
    daemon.remove("data0")
    third = next(updates)
    assert third.removed == ("data0",)
    assert list(third.state.instances) == ["data1", "data2", "data3", "data4"]
    updates.close()


def test_closing_the_iterator_ends_the_stream_at_the_daemon(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    updates = client.watch()
    next(updates)
    daemon.wait_until(lambda: daemon.streams == 1)
    updates.close()
    daemon.wait_until(lambda: daemon.streams == 0)


def test_a_lost_stream_is_resumed_where_it_left_off(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.add("data2")
    changes: list[Disconnected | Reconnected] = []
    updates = client.watch(on_connection=changes.append)
    next(updates)
    daemon.hold = True
    daemon.drop_streams()
    daemon.change("data2", restart_count=7)
    daemon.hold = False
    daemon.drop_streams()
    update = next(updates)
    assert (update.changed, update.snapshot) == (("data2",), "")
    assert isinstance(changes[0], Disconnected)
    assert isinstance(changes[0].error, Unreachable)
    assert isinstance(changes[-1], Reconnected)
    assert changes[-1].complete
    tokens = [r.resume_token for r in daemon.requests if isinstance(r, pb.WatchStatusRequest)]
    assert tokens[0] == ""
    assert set(tokens[1:]) == {"epoch-1:3"}
    updates.close()


def test_a_new_epoch_sends_a_snapshot_and_only_differences_show(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.add("data2")
    updates = client.watch()
    next(updates)
    daemon.stop()
    del daemon.instances["data2"]
    daemon.restart("epoch-2")
    update = next(updates)
    assert update.snapshot == "epoch_changed"
    assert update.removed == ("data2",)
    assert update.state.epoch == "epoch-2"
    assert update.manager_changed
    updates.close()


def test_silence_is_a_dead_connection(
    daemon: FakeDaemon, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEATS_MISSED", 0.5)
    daemon.add("data1")
    daemon.silent = True
    changes: list[Disconnected | Reconnected] = []
    updates = client.watch(heartbeat=1.0, on_connection=changes.append)
    next(updates)
    # The daemon goes silent; the client reconnects, and the new stream has the change.
    daemon.hold = True
    daemon.change("data1", restart_count=1)

    def release_after_the_loss() -> None:
        daemon.wait_until(
            lambda: len([r for r in daemon.requests if isinstance(r, pb.WatchStatusRequest)]) > 1
        )
        daemon.hold = False
        with daemon.changed:
            daemon.changed.notify_all()

    helper = threading.Thread(target=release_after_the_loss)
    helper.start()
    assert next(updates).changed == ("data1",)
    helper.join()
    assert isinstance(changes[0], Disconnected)
    assert "no message" in str(changes[0].error)
    updates.close()


def test_heartbeats_keep_a_quiet_watch_alive(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    changes: list[Disconnected | Reconnected] = []
    contacts: list[None] = []
    updates = client.watch(
        heartbeat=1.2, on_connection=changes.append, on_contact=lambda: contacts.append(None)
    )
    next(updates)
    timer = threading.Timer(3.5, lambda: daemon.change("data1", restart_count=1))
    timer.start()
    assert next(updates).changed == ("data1",)
    assert changes == []
    assert contacts
    updates.close()


def test_a_permanent_error_ends_the_watch(daemon: FakeDaemon, client: Any) -> None:
    updates = client.watch()
    next(updates)
    daemon.fail_next = (grpc.StatusCode.PERMISSION_DENIED, "not for you", "DENIED", [])
    daemon.drop_streams()
    with pytest.raises(PermissionDenied, match="not for you"):
        next(updates)


def test_an_outage_can_be_too_long(daemon: FakeDaemon, make_client: MakeClient) -> None:
    client = make_client(daemon, reconnect=Reconnect(first=0.01, longest=0.05, give_up_after=0.2))
    updates = client.watch()
    next(updates)
    daemon.stop()
    with pytest.raises(Unreachable):
        next(updates)


def test_a_watch_with_at_start_waits_for_the_daemon(daemon: FakeDaemon, make_client: MakeClient) -> None:
    daemon.add("data1")
    daemon.stop()

    def start_it(change: Disconnected | Reconnected) -> None:
        if isinstance(change, Disconnected) and daemon.server is None:
            daemon.start()

    client = make_client(daemon, reconnect=Reconnect(first=0.01, longest=0.05, at_start=True))
    updates = client.watch(on_connection=start_it)
    assert next(updates).changed == ("data1",)
    updates.close()


def test_a_watch_resumes_from_a_state(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.add("data2")
    state = client.get_state()
    daemon.change("data1", restart_count=2)
    updates = client.watch(since=state)
    update = next(updates)
    assert (update.changed, update.snapshot) == (("data1",), "")
    assert list(update.state.instances) == ["data1", "data2"]
    updates.close()


def test_events_are_followed_without_a_loss_or_a_repeat(daemon: FakeDaemon, client: Any) -> None:
    daemon.happen("one")
    listing = client.list_events(newest=1)
    events = client.watch_events(resume_token=listing.resume_token)
    daemon.happen("two")
    assert next(events).message == "two"
    daemon.drop_streams()
    daemon.happen("three")
    daemon.happen("four")
    assert [next(events).message, next(events).message] == ["three", "four"]
    events.close()


def test_a_gap_between_events_is_reported(daemon: FakeDaemon, client: Any) -> None:
    changes: list[Disconnected | Reconnected] = []
    daemon.happen("one")
    token = client.list_events().resume_token
    events = client.watch_events(resume_token=token, on_connection=changes.append)
    daemon.happen("two")
    next(events)
    daemon.restart("epoch-2")
    gap = next(events)
    assert isinstance(gap, pb.EventGap)
    assert gap.message == "an earlier epoch of the daemon"
    assert isinstance(changes[-1], Reconnected)
    assert not changes[-1].complete
    events.close()


def test_followed_log_lines_come_once_over_a_lost_connection(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.write("data1", "a", "b", "c")
    lines = client.tail_logs("data1", lines=2, follow=True)
    assert [next(lines).text, next(lines).text] == ["b", "c"]
    daemon.write("data1", "d")
    assert next(lines).text == "d"
    daemon.stop()
    daemon.write("data1", "e", "f")
    daemon.start()
    assert [next(lines).text, next(lines).text] == ["e", "f"]
    lines.close()


def test_closing_the_client_ends_its_streams(daemon: FakeDaemon, make_client: MakeClient) -> None:
    client = make_client(daemon)
    updates = client.watch()
    next(updates)

    def close() -> None:
        client.run(client.client.close()) if hasattr(client, "client") else client.close()

    timer = threading.Timer(0.2, close)
    timer.start()
    assert list(updates) == []
    timer.join()


def test_a_daemon_that_takes_the_call_and_sends_nothing_is_unreachable(
    daemon: FakeDaemon, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEATS_MISSED", 0.5)
    daemon.hold = True
    with pytest.raises(Unreachable, match="no message"):
        next(client.watch(heartbeat=1.0))
