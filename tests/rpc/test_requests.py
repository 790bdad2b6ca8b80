"""The unary calls: what they answer, and how they refuse."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import ManagerState, Problem
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, Target
from hostmanager_server.rpc.service import SERVICE
from hostmanager_server.rpc.status import StatusRpcs

from tests.fakes.driver import Behaviour
from tests.in_memory import ReadConfig
from tests.rpc.conftest import View, down, refused, run, server_harness, spec, until, up

BROKEN = ReadConfig(None, (Problem(Severity.ERROR, "unknown manage 'maybe'", "site.yaml", 3, 5),))
CODE = grpc.StatusCode


def test_status_and_lists_agree(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            status = await stub.GetStatus(pb.GetStatusRequest())
            listed = await stub.ListInstances(pb.ListInstancesRequest())
            one = await stub.GetInstance(pb.GetInstanceRequest(instance_id="b"))
            assert [c.instance_id for c in status.child_states] == ["a", "b", "c"]
            assert {c.next_action for c in status.child_states} == {pb.NEXT_ACTION_UP}
            assert status.manager.state == pb.MANAGER_STATE_RUNNING
            assert status.manager.epoch == h.epoch
            assert [i.full_name for i in listed.instances] == ["Agent:a", "Agent:b", "Agent:c"]
            assert one.instance == listed.instances[1]
            assert one.instance.process.pid
            assert one.revision == listed.revision == status.revision

    run(play())


def test_pages_follow_one_another_while_instances_come_and_go(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path, [spec(f"i{n}") for n in range(5)]) as h:
            stub = h.stub()
            first = await stub.ListInstances(pb.ListInstancesRequest(page_size=2))
            h.config = ReadConfig(HostSpec("host", tuple(spec(i) for i in ("i0", "i2", "i3", "i35"))))
            await stub.Update(pb.UpdateRequest(reload_config=True))
            await until(lambda: set(h.store.snapshot().instances) == {"i0", "i2", "i3", "i35"})
            second = await stub.ListInstances(
                pb.ListInstancesRequest(page_size=2, page_token=first.next_page_token)
            )
            third = await stub.ListInstances(
                pb.ListInstancesRequest(page_size=2, page_token=second.next_page_token)
            )
            pages = [[i.instance_id for i in page.instances] for page in (first, second, third)]
            assert pages == [["i0", "i1"], ["i2", "i3"], ["i35"]]
            assert not third.next_page_token

    run(play())


def test_ordered_changes_end_as_the_last_one_says(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            everyone = pb.TargetChange(all=True, target_state=pb.TARGET_STATE_UP)
            answer = await stub.Update(pb.UpdateRequest(requests=[*down("a"), everyone, *down("b")]))
            assert {g.instance_id for g in answer.generations} == {"a", "b", "c"}
            wanted = {g.instance_id: g.generation for g in answer.generations}
            view = View()
            stream = stub.WatchStatus(pb.WatchStatusRequest(resume_token=answer.resume_token))
            await view.read(stream, lambda: all(
                i in view.instances and view.instances[i].observed_generation >= g for i, g in wanted.items()
            ))  # fmt: skip
            assert view.reasons == [], "it resumed"
            targets = {i: m.target_state for i, m in view.instances.items()}
            assert targets == {"a": pb.TARGET_STATE_UP, "b": pb.TARGET_STATE_DOWN, "c": pb.TARGET_STATE_UP}
            assert view.instances["b"].next_action == pb.NEXT_ACTION_DOWN
            assert h.host.run_of("b") is None

    run(play())


def test_one_bad_entry_and_nothing_has_happened(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            before = h.store.snapshot()
            request = pb.UpdateRequest(requests=[*down("a"), *down("nobody"), *up("b", "noone")])
            error = await refused(stub.Update(request))
            assert (error.code, error.reason, error.domain) == (
                CODE.NOT_FOUND,
                "UNKNOWN_INSTANCE",
                "hostmanager",
            )
            assert error.violations.keys() == {"requests[1]", "requests[3]"}
            assert "'nobody'" in error.violations["requests[1]"]
            request = pb.UpdateRequest(
                requests=[
                    *down("a"),
                    pb.TargetChange(instance_id="b"),
                    pb.TargetChange(all=False, target_state=pb.TARGET_STATE_UP),
                ]
            )
            error = await refused(stub.Update(request))
            assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert error.violations.keys() == {"requests[1].target_state", "requests[2].instance_id"}
            await stub.GetStatus(pb.GetStatusRequest())
            assert h.store.snapshot().instances == before.instances

    run(play())


def test_validating_changes_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            before = h.store.revision
            answer = await stub.Update(pb.UpdateRequest(requests=down("a"), validate_only=True))
            assert answer.revision == before
            assert not answer.generations
            h.config = BROKEN
            error = await refused(stub.Update(pb.UpdateRequest(reload_config=True, validate_only=True)))
            assert error.reason == "CONFIG_UNUSABLE"
            assert h.store.revision == before

    run(play())


def test_a_broken_config_is_told_with_its_place_and_changes_no_instance(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            before = h.store.snapshot().instances
            h.config = BROKEN
            error = await refused(stub.Update(pb.UpdateRequest(reload_config=True, requests=down("a"))))
            assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "CONFIG_UNUSABLE")
            assert "site.yaml:3:5" in error.message
            status = await stub.GetStatus(pb.GetStatusRequest())
            assert not status.manager.config_parse_status["[SCF]"].success
            assert h.store.snapshot().instances == before

    run(play())


REFUSALS = [
    ("Update", pb.UpdateRequest(), "INVALID_ARGUMENT", {"requests"}),
    ("Update",
     pb.UpdateRequest(requests=[pb.TargetChange(instance_id="a", target_state=pb.TARGET_STATE_PASSIVE)]),
     "INVALID_ARGUMENT", {"requests[0].target_state"}),
    ("Restart", pb.RestartRequest(), "INVALID_ARGUMENT", {"instance_ids"}),
    ("Restart", pb.RestartRequest(instance_ids=["a"], all=True), "INVALID_ARGUMENT", {"instance_ids"}),
    ("Restart", pb.RestartRequest(instance_ids=["a", "x"]), "NOT_FOUND", {"instance_ids[1]"}),
    ("Restart", pb.RestartRequest(instance_ids=["a", "lazy"]), "INVALID_ARGUMENT", {"instance_ids[1]"}),
    ("Restart", pb.RestartRequest(instance_ids=["x", "broken"]), "INVALID_ARGUMENT",
     {"instance_ids[0]", "instance_ids[1]"}),
    ("GetInstance", pb.GetInstanceRequest(), "INVALID_ARGUMENT", {"instance_id"}),
    ("GetInstance", pb.GetInstanceRequest(instance_id="x"), "NOT_FOUND", {"instance_id"}),
    ("ListInstances", pb.ListInstancesRequest(instance_ids=["a", "x"]), "NOT_FOUND", {"instance_ids[1]"}),
    ("ListInstances", pb.ListInstancesRequest(page_size=1001), "INVALID_ARGUMENT", {"page_size"}),
    ("ListInstances", pb.ListInstancesRequest(page_token="?"), "INVALID_ARGUMENT", {"page_token"}),
    ("ListEvents", pb.ListEventsRequest(page_size=-1), "INVALID_ARGUMENT", {"page_size"}),
    ("ListEvents", pb.ListEventsRequest(newest=-1), "INVALID_ARGUMENT", {"newest"}),
    ("ListEvents", pb.ListEventsRequest(page_token="?"), "INVALID_ARGUMENT", {"page_token"}),
    ("ListEvents", pb.ListEventsRequest(page_token="older.1"), "INVALID_ARGUMENT", {"page_token"}),
    ("WatchStatus", pb.WatchStatusRequest(resume_token="garbage"), "INVALID_ARGUMENT", {"resume_token"}),
    ("WatchStatus", pb.WatchStatusRequest(resume_token="e0.-1"), "INVALID_ARGUMENT", {"resume_token"}),
    ("WatchStatus", pb.WatchStatusRequest(heartbeat_interval=Duration(nanos=1)), "INVALID_ARGUMENT",
     {"heartbeat_interval"}),
    ("WatchEvents", pb.WatchEventsRequest(resume_token="garbage"), "INVALID_ARGUMENT", {"resume_token"}),
    ("WatchEvents", pb.WatchEventsRequest(heartbeat_interval=Duration(seconds=3601)), "INVALID_ARGUMENT",
     {"heartbeat_interval"}),
    ("TailLogs", pb.TailLogsRequest(), "INVALID_ARGUMENT", {"instance_id"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="x"), "NOT_FOUND", {"instance_id"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="a", lines=-1), "INVALID_ARGUMENT", {"lines"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Duration(nanos=999_999_900), "must be 1 s to 3600 s, not 0.9999999 s"),
        (Duration(seconds=3600, nanos=1), "must be 1 s to 3600 s, not 3600.000000001 s"),
        (Duration(seconds=-1), "not -1 s"),
        (Duration(nanos=-1), "not -0.000000001 s"),
        (Duration(seconds=2**62), f"not {2**62} s"),
        (Duration(seconds=2, nanos=-5), "2 s with -5 nanos is no duration"),
        (Duration(seconds=-2, nanos=5), "-2 s with 5 nanos is no duration"),
        (Duration(seconds=2, nanos=10**9), "is no duration: nanos go from -999999999 to 999999999"),
    ],
)
def test_a_duration_out_of_range_is_told_to_its_last_digit(
    tmp_path: Path, given: Duration, told: str
) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            calls: dict[str, Any] = {
                "heartbeat_interval": stub.WatchStatus(pb.WatchStatusRequest(heartbeat_interval=given)),
                "progress_timeout": stub.DockerPull(pb.DockerPullRequest(progress_timeout=given)),
            }
            for field, call in calls.items():
                error = await refused(call.read())
                assert (error.code, error.message) == (CODE.INVALID_ARGUMENT, error.violations[field])
                assert error.message.startswith(f"{field} must be 1 s to 3600 s")
                assert told in error.message

    run(play())


NO_MESSAGES = {
    "cut off": b"\x0a\x7f",
    "wrong wire type": b"\x0f",
    "endless group": b"\x0b" * 200,
}


@pytest.mark.parametrize("data", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_what_is_no_message_is_an_invalid_argument_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            channel: Any = h.channel()
            for method in SERVICE.methods:
                call = channel.unary_stream if method.server_streaming else channel.unary_unary
                answer = call(f"/{SERVICE.full_name}/{method.name}")(data)
                error = await refused(answer.read() if method.server_streaming else answer)
                assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST"), method.name
                assert method.input_type.full_name in error.message
            for name in ("Check", "Watch"):
                answer = channel.unary_stream(f"/grpc.health.v1.Health/{name}")(data)
                assert (await refused(answer.read())).code is CODE.INVALID_ARGUMENT, name
            for version in ("v1", "v1alpha"):
                name = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
                answer = channel.stream_stream(name)(iter([data]))
                assert (await refused(answer.read())).code is CODE.INVALID_ARGUMENT
            answer = channel.unary_unary(f"/{SERVICE.full_name}/GetInstance")(b"\x0a\x01\xff")
            assert (await refused(answer)).code is CODE.INVALID_ARGUMENT, "an id that is no UTF-8"
            await h.stub().GetStatus(pb.GetStatusRequest())

    run(play())
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_bad_request_is_refused_by_the_field_that_is_bad(tmp_path: Path) -> None:
    async def play() -> None:
        broken = InstanceSpec("broken", "Agent", problem="it has no command")
        async with server_harness(tmp_path, [spec("a"), spec("lazy", target=Target.DOWN)]) as h:
            h.config = ReadConfig(HostSpec("host", (spec("a"), spec("lazy", target=Target.DOWN), broken)))
            stub = h.stub()
            await stub.Update(pb.UpdateRequest(reload_config=True))
            for name, request, code, fields in REFUSALS:
                call = getattr(stub, name)(request)
                error = await refused(call if hasattr(call, "__await__") else anext(aiter(call)))
                assert (error.code.name, set(error.violations)) == (code, fields), (name, request)
                assert error.domain == "hostmanager"

    run(play())


def test_the_manager_is_refused_what_its_state_does_not_allow(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            error = await refused(stub.StartManager(pb.StartManagerRequest()))
            assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "MANAGER_RUNNING")
            stopped = await stub.StopManager(pb.StopManagerRequest())
            assert not h.host.runs, "it answers when everything is down"
            assert (await stub.StopManager(pb.StopManagerRequest())).revision >= stopped.revision
            for call in (
                stub.Update(pb.UpdateRequest(requests=up("a"))),
                stub.Restart(pb.RestartRequest(all=True)),
            ):
                error = await refused(call)
                assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "MANAGER_STOPPED")
                assert error.metadata == {"manager_state": "stopped"}
            await stub.StartManager(pb.StartManagerRequest(requests=down("b")))
            await until(lambda: len(h.host.runs) == 2)
            assert h.host.run_of("b") is None

    run(play())


def test_a_restart_gives_a_new_run_and_keeps_the_target(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            before = {r.key.instance_id: r.pid for r in h.host.runs}
            await h.restart("a")
            assert {r.key.instance_id: r.pid for r in h.host.runs if r.key.instance_id != "a"} == {
                i: pid for i, pid in before.items() if i != "a"
            }
            one = await stub.GetInstance(pb.GetInstanceRequest(instance_id="a"))
            assert one.instance.target_state == pb.TARGET_STATE_UP

    run(play())


def test_only_the_daemon_that_is_meant_dies(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            error = await refused(stub.Die(pb.DieRequest(expected_epoch="earlier")))
            assert (error.code, error.reason) == (CODE.ABORTED, "STALE_EPOCH")
            assert not h.died
            answer = await stub.Die(pb.DieRequest(expected_epoch=h.epoch))
            assert answer.epoch == h.epoch
            assert h.died == [frozenset()]
            assert not h.host.runs

    run(play())


def test_an_upgrade_is_of_the_daemon_that_is_meant_and_refused_when_it_could_not_start(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            error = await refused(stub.Upgrade(pb.UpgradeRequest(expected_epoch="earlier")))
            assert (error.code, error.reason) == (CODE.ABORTED, "STALE_EPOCH")
            answer = await stub.Upgrade(pb.UpgradeRequest(validate_only=True))
            assert (answer.epoch, answer.version) == (h.epoch, "9.9")
            await stub.Upgrade(pb.UpgradeRequest(expected_epoch=h.epoch))
            assert h.upgrades == [True, False]
            h.cannot_upgrade = "no module named so"
            error = await refused(stub.Upgrade(pb.UpgradeRequest()))
            assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "UPGRADE_REFUSED")
            assert "no module named so" in error.message

    run(play())


def test_a_disowning_death_leaves_everything_running(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            await h.stub().Die(pb.DieRequest(disown_processes=True))
            assert h.died == [frozenset({Management.HOST})]
            assert len(h.host.runs) == 3

    run(play())


def test_what_was_told_to_end_cannot_be_disowned_any_more(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            h.host.behave("a", Behaviour(ignores=frozenset({signal.SIGINT})))
            await h.restart("a")
            stopping = h.stub().StopManager(pb.StopManagerRequest())
            await until(lambda: h.store.snapshot().manager.state is ManagerState.STOPPING)
            error = await refused(h.stub().Die(pb.DieRequest(disown_processes=True)))
            assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "MANAGER_STOPPING")
            assert not h.died
            stopping.cancel()

    run(play())


def test_a_death_that_is_asked_for_twice_is_one(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            h.host.behave("a", Behaviour(ignores=frozenset({signal.SIGINT})))
            await h.restart("a")
            request = pb.DieRequest(disown_dockers=True)
            calls = [h.stub().Die(request) for _ in range(2)]
            await until(lambda: h.died == [frozenset({Management.DOCKER})] * 2)
            for call in calls:
                call.cancel()

    run(play())


def test_a_daemon_that_gives_way_to_another_is_not_asked_to_end(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            h.gives_way = True
            error = await refused(h.stub().Die(pb.DieRequest()))
            assert (error.code, error.reason) == (CODE.UNAVAILABLE, "BEING_UPGRADED")
            assert h.store.snapshot().manager.state is ManagerState.RUNNING
            assert "Die" not in [event.entry.reason for event in h.store.events_since(0).events]

    run(play())


def test_a_bug_is_told_without_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: StatusRpcs, request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        raise ValueError("a secret")

    monkeypatch.setattr(StatusRpcs, "get_status", broken)

    async def play() -> None:
        async with server_harness(tmp_path) as h:
            error = await refused(h.stub().GetStatus(pb.GetStatusRequest()))
            assert (error.code, error.reason) == (CODE.INTERNAL, "INTERNAL")
            assert "secret" not in error.message

    run(play())


def test_a_request_beyond_the_size_limit_is_refused(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await h.stub().GetInstance(pb.GetInstanceRequest(instance_id="x" * 1_100_000))
            assert caught.value.code() is CODE.RESOURCE_EXHAUSTED

    run(play())


def test_a_deadline_is_kept_while_a_stop_takes_longer(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path, started=False) as h:
            h.host.behave("a", Behaviour(ignores=frozenset({2, 15})))
            await asyncio.wrap_future(h.supervisor.start_manager())
            await until(lambda: len(h.host.runs) == 3)
            stub = h.stub()
            await stub.GetStatus(pb.GetStatusRequest())  # it is connected now
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.StopManager(pb.StopManagerRequest(), timeout=2)
            assert caught.value.code() is CODE.DEADLINE_EXCEEDED
            status = await stub.GetStatus(pb.GetStatusRequest())
            assert status.manager.state == pb.MANAGER_STATE_STOPPING

    run(play())


def test_every_bad_entry_is_told_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            changes = [
                pb.TargetChange(instance_id="nosuch", target_state=pb.TARGET_STATE_UP),
                pb.TargetChange(instance_id="a"),
                pb.TargetChange(target_state=pb.TARGET_STATE_UP),
            ]
            error = await refused(h.stub().Update(pb.UpdateRequest(requests=changes)))
            assert error.code is CODE.INVALID_ARGUMENT
            assert list(error.violations) == [
                "requests[0].instance_id", "requests[1].target_state", "requests[2].instance_id"
            ]  # fmt: skip

    run(play())


def test_a_bad_id_of_a_restart_is_counted_where_it_stands(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            error = await refused(h.stub().Restart(pb.RestartRequest(instance_ids=["a", "a", "nosuch"])))
            assert list(error.violations) == ["instance_ids[2]"]

    run(play())
