"""Unary calls and errors, of both clients."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import (
    DOWN,
    UP,
    Aborted,
    DeadlineExceeded,
    HostManagerError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ServerBug,
    Unreachable,
    Unsupported,
    Violation,
)
from hostmanager_client.calls import get_instance
from hostmanager_client.log_stream import LogQuery, LogStream

from tests.client.conftest import MakeClient
from tests.client.fake_daemon import FakeDaemon


def test_a_listing_has_every_page_and_the_token_of_the_first(daemon: FakeDaemon, client: Any) -> None:
    for n in range(8):
        daemon.add(f"data{n}")
    listing = client.list_instances()
    assert [i.instance_id for i in listing.instances] == [f"data{n}" for n in range(8)]
    assert listing.resume_token == f"epoch-1:{daemon.revision}"


def test_a_state_has_the_manager_and_the_named_instances(daemon: FakeDaemon, client: Any) -> None:
    for n in range(5):
        daemon.add(f"data{n}")
    state = client.get_state(["data3", "data1"])
    assert list(state.instances) == ["data1", "data3"]
    assert state.manager.host == "daq1"
    assert state.epoch == "epoch-1"


def test_changes_are_applied_in_order(daemon: FakeDaemon, client: Any) -> None:
    for n in range(3):
        daemon.add(f"data{n}", target_state=DOWN)
    answer = client.update({"all": UP, "data1": DOWN})
    targets = {i: v.target_state for i, v in daemon.instances.items()}
    assert targets == {"data0": UP, "data1": DOWN, "data2": UP}
    assert [g.instance_id for g in answer.generations] == ["data0", "data1", "data2"]


def test_every_call_sends_its_arguments(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    client.update([("data1", UP)], reload_config=True, validate_only=True)
    client.restart(["data1"])
    client.restart(all_up=True)
    client.hold(["data1"], 1.5, reason="swap")
    client.hold(["data1"])
    client.release(["data1"])
    client.release(all_held=True)
    client.stop_manager()
    client.start_manager({"data1": DOWN}, reload_config=False)
    client.upgrade(expected_epoch="epoch-1", validate_only=True)
    client.die(disown_dockers=True, disown_processes=True, expected_epoch="epoch-1")
    change = pb.TargetChange(instance_id="data1", target_state=UP)
    assert daemon.requests == [
        pb.UpdateRequest(requests=[change], reload_config=True, validate_only=True),
        pb.RestartRequest(instance_ids=["data1"]),
        pb.RestartRequest(all=True),
        pb.HoldRequest(
            instance_ids=["data1"], duration=Duration(seconds=1, nanos=500_000_000), reason="swap"
        ),
        pb.HoldRequest(instance_ids=["data1"]),
        pb.ReleaseRequest(instance_ids=["data1"]),
        pb.ReleaseRequest(all=True),
        pb.StopManagerRequest(),
        pb.StartManagerRequest(
            requests=[pb.TargetChange(instance_id="data1", target_state=DOWN)], reload_config=False
        ),
        pb.UpgradeRequest(expected_epoch="epoch-1", validate_only=True),
        pb.DieRequest(disown_dockers=True, disown_processes=True, expected_epoch="epoch-1"),
    ]


def test_changes_carry_a_reason_and_say_who_asks(
    daemon: FakeDaemon, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/night-watch.py", "--password", "secret"])
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "Jörg")
    daemon.add("data1")
    why = {"reason": "valve swap"}
    client.update({"data1": UP}, **why)
    client.restart(["data1"], **why)
    client.stop_manager(**why)
    client.start_manager(**why)
    client.upgrade(**why)
    client.die(**why)
    assert [getattr(request, "reason", "") for request in daemon.requests] == ["valve swap"] * 6
    expected = {
        "hostmanager-user": "J%C3%B6rg",
        "hostmanager-program": "night-watch.py",
        "hostmanager-pid": str(os.getpid()),
    }
    assert [who for who in daemon.callers if who] == [expected] * 6
    client.get_status()
    assert not daemon.callers[-1], "a call that only reads says nothing"


def test_the_newest_events_are_listed_over_pages(daemon: FakeDaemon, client: Any) -> None:
    for n in range(9):
        daemon.happen(f"event {n}", "data1" if n % 2 else "data2")
    assert [e.message for e in client.list_events(newest=5).events] == [f"event {n}" for n in range(4, 9)]
    assert [e.sequence for e in client.list_events(["data1"]).events] == [2, 4, 6, 8]


def test_events_are_selected_by_the_daemon(daemon: FakeDaemon, client: Any) -> None:
    since = datetime(2026, 11, 28, 2, 0, 0, 250_000, tzinfo=UTC)
    selection = {"since": since, "until": since, "reasons": ["Exited", "GaveUp"], "min_severity": "error"}
    token = client.list_events(newest=7, **selection).resume_token
    daemon.happen("one")
    stream = client.watch_events(
        resume_token=token, since=since, reasons=["Up"], min_severity=pb.SEVERITY_WARNING
    )
    next(stream)
    moment = Timestamp(seconds=1795831200, nanos=250_000_000)
    assert daemon.requests == [
        pb.ListEventsRequest(
            page_size=1000, newest=7, since=moment, until=moment, reasons=["Exited", "GaveUp"],
            min_severity=pb.SEVERITY_ERROR,
        ),
        pb.WatchEventsRequest(
            resume_token=token, heartbeat_interval=Duration(seconds=15), since=moment, reasons=["Up"],
            min_severity=pb.SEVERITY_WARNING,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("wanted", [{"min_severity": "loud"}, {"reasons": "Exited"}])
def test_a_selection_that_means_nothing_is_refused(client: Any, wanted: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot"):
        client.list_events(**wanted)


def test_log_lines_end_without_follow(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.write("data1", *(f"line {n}" for n in range(5)))
    assert [line.text for line in client.tail_logs("data1", lines=2)] == ["line 3", "line 4"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, PreconditionFailed),
        (grpc.StatusCode.ABORTED, Aborted),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, LimitExceeded),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.UNAUTHENTICATED, PermissionDenied),
        (grpc.StatusCode.UNIMPLEMENTED, Unsupported),
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
        (grpc.StatusCode.INTERNAL, ServerBug),
        (grpc.StatusCode.UNKNOWN, ServerBug),
    ],
)
def test_each_status_is_its_own_error_with_its_details(
    daemon: FakeDaemon, client: Any, code: grpc.StatusCode, kind: type[HostManagerError]
) -> None:
    daemon.fail_next = (code, "no such thing", "SOME_REASON", [("requests[1].who", "is wrong")])
    with pytest.raises(HostManagerError) as caught:
        client.update({"data1": UP})
    assert type(caught.value) is kind
    assert caught.value.reason == "SOME_REASON"
    assert caught.value.violations == (Violation("requests[1].who", "is wrong"),)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert "cannot update targets" in str(caught.value)


def test_an_unknown_instance_is_not_found_in_a_stream_too(daemon: FakeDaemon, client: Any) -> None:
    with pytest.raises(NotFound, match="data9"):
        list(client.tail_logs("data9", follow=True))


def test_an_absent_daemon_is_unreachable_and_the_error_has_a_remedy(daemon: FakeDaemon, client: Any) -> None:
    daemon.stop()
    with pytest.raises(Unreachable, match=r"no such socket\. Start the daemon with `hostmanager serve"):
        client.get_status()


def test_a_first_watch_without_a_daemon_is_unreachable(daemon: FakeDaemon, client: Any) -> None:
    daemon.stop()
    with pytest.raises(Unreachable):
        next(client.watch())


def test_no_answer_in_time_is_a_deadline_exceeded(daemon: FakeDaemon, make_client: MakeClient) -> None:
    client = make_client(daemon, timeout=0.05)
    daemon.hanging.clear()
    with pytest.raises(DeadlineExceeded, match=r"did not answer in time\. Try again"):
        client.get_status()
    daemon.hanging.set()


def test_invalid_requests_are_rejected_without_a_call(daemon: FakeDaemon, client: Any) -> None:
    with pytest.raises(InvalidRequest):
        client.restart()
    with pytest.raises(InvalidRequest):
        client.restart(["data1"], all_up=True)
    with pytest.raises(InvalidRequest, match=r"\['data1'\]"):
        client.list_instances("data1")
    with pytest.raises(InvalidRequest, match="heartbeat"):
        next(client.watch(heartbeat=0.5))
    assert daemon.requests == []


def test_a_closed_client_is_an_error_and_no_hang(daemon: FakeDaemon, client: Any) -> None:
    client.get_status()
    if hasattr(client, "client"):
        client.run(client.client.close())
    else:
        client.close()
    with pytest.raises(Unreachable, match="closed"):
        client.get_status()


def test_an_id_that_no_instance_can_have_is_not_quoted_whole(client: Any) -> None:
    endless = "x" * 100_000
    with pytest.raises(InvalidRequest, match="as a list of instance ids") as caught:
        client.restart(endless)
    assert len(str(caught.value)) < 400
    for what in (get_instance(endless).what, LogStream(endless, LogQuery(), silence=None).what):
        assert what.endswith("x'… (100000 characters)")
        assert len(what) < 200
