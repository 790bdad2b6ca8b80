"""Unary calls: responses and refusals."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import ManagerState, Problem
from hostmanager_server.core.spec import EnvFile, HostSpec, Management, ProcessSpec, Target

from tests.fakes.driver import Behaviour
from tests.in_memory import MemoryConfig
from tests.rpc.harness import WatchState, down, refused, server_harness, spec, until, up

BROKEN = MemoryConfig(None, (Problem(Severity.ERROR, "unknown manage 'maybe'", "site.yaml", 3, 5),))
CODE = grpc.StatusCode


async def test_status_and_lists_agree(tmp_path: Path) -> None:
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


async def test_an_instance_names_the_files_of_its_variables(tmp_path: Path) -> None:
    files = (EnvFile("/etc/lab.env", "digest"), EnvFile("/etc/more.env", optional=True))
    one = replace(spec("a"), process=ProcessSpec(("a",), env_files=files))

    async with server_harness(tmp_path, [one]) as h:
        answer = await h.stub().GetInstance(pb.GetInstanceRequest(instance_id="a"))
        assert list(answer.instance.process.env_files) == [
            pb.EnvFile(path="/etc/lab.env", loaded=True),
            pb.EnvFile(path="/etc/more.env", optional=True),
        ]


async def test_pages_follow_one_another_while_instances_come_and_go(tmp_path: Path) -> None:
    async with server_harness(tmp_path, [spec(f"i{n}") for n in range(5)]) as h:
        stub = h.stub()
        first = await stub.ListInstances(pb.ListInstancesRequest(page_size=2))
        h.config = MemoryConfig(HostSpec("host", tuple(spec(i) for i in ("i0", "i2", "i3", "i35"))))
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


async def test_ordered_changes_end_as_the_last_one_says(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        everyone = pb.TargetChange(all=True, target_state=pb.TARGET_STATE_UP)
        answer = await stub.Update(pb.UpdateRequest(requests=[*down("a"), everyone, *down("b")]))
        assert {g.instance_id for g in answer.generations} == {"a", "b", "c"}
        wanted = {g.instance_id: g.generation for g in answer.generations}
        view = WatchState()
        stream = stub.WatchStatus(pb.WatchStatusRequest(resume_token=answer.resume_token))
        await view.read(stream, lambda: all(
            i in view.instances and view.instances[i].observed_generation >= g for i, g in wanted.items()
        ))  # fmt: skip
        assert view.reasons == [], "the watch resumes without a snapshot"
        targets = {i: m.target_state for i, m in view.instances.items()}
        assert targets == {"a": pb.TARGET_STATE_UP, "b": pb.TARGET_STATE_DOWN, "c": pb.TARGET_STATE_UP}
        assert view.instances["b"].next_action == pb.NEXT_ACTION_DOWN
        assert h.host.run_of("b") is None


async def test_a_request_with_a_bad_entry_changes_nothing(tmp_path: Path) -> None:
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


async def test_validating_changes_nothing(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        before = h.store.revision
        answer = await stub.Update(pb.UpdateRequest(requests=down("a"), validate_only=True))
        assert answer.revision == before
        [would] = answer.generations
        assert (would.instance_id, would.target_state) == ("a", pb.TARGET_STATE_DOWN)
        assert would.generation == h.store.snapshot().instances["a"].instance.wanted.generation
        h.config = BROKEN
        error = await refused(stub.Update(pb.UpdateRequest(reload_config=True, validate_only=True)))
        assert error.reason == "CONFIG_UNUSABLE"
        assert h.store.revision == before


async def test_a_reload_tells_its_changes_and_a_check_tells_the_same_before(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        other = replace(spec("b"), process=ProcessSpec(("b", "--setpoint", "4.3")))
        h.config = MemoryConfig(HostSpec("host", (other, spec("c", "Other"), spec("d", target=Target.DOWN))))
        tracked = h.store.snapshot().instances
        with_check = pb.UpdateRequest(reload_config=True, validate_only=True)
        before = await stub.Update(with_check)
        assert h.store.snapshot().instances == tracked, "the check changed something"
        done = await stub.Update(pb.UpdateRequest(reload_config=True))
        assert list(done.changes) == list(before.changes)
        assert (done.stopping, done.more_changes) == (2, 0)
        kinds = pb.InstanceChange
        assert [(change.instance_id, change.kind, change.stops) for change in done.changes] == [
            ("a", kinds.KIND_REMOVED, True),
            ("c", kinds.KIND_REPLACED, True),
            ("b", kinds.KIND_CHANGED, False),
            ("d", kinds.KIND_ADDED, False),
        ]
        gone, replaced, changed, added = done.changes
        assert gone.HasField("start_time")
        assert list(replaced.keys) == [pb.KeyChange(key="agent-class", before="Agent", after="Other")]
        assert list(changed.keys) == [pb.KeyChange(key="arguments", after="--setpoint 4.3")]
        assert changed.restart_required
        assert added.target_state == pb.TARGET_STATE_DOWN
        assert not (await stub.Update(with_check)).changes
        assert not (await stub.Update(pb.UpdateRequest(requests=down("b")))).changes


async def test_reloads_that_share_a_reading_tell_the_same_changes(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        h.config = MemoryConfig(HostSpec("host", (spec("a"), spec("b"))))
        h.keep_supervisor_busy()
        asked = [stub.Update(pb.UpdateRequest(reload_config=True)) for _ in range(3)]
        answers = await asyncio.gather(*asked)
        told = [[change.instance_id for change in answer.changes] for answer in answers]
        assert ["c"] in told
        assert all(ids in (["c"], []) for ids in told), "a later reading has no changes"


async def test_a_broken_config_is_refused_with_its_place_and_changes_no_instance(tmp_path: Path) -> None:
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


async def test_a_signal_ends_a_run_and_is_an_event(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        await stub.Signal(pb.SignalRequest(instance_id="a", signal="SIGKILL"))
        await until(lambda: h.store.snapshot().instances["a"].instance.standing.restarts == 1)
        events = (await stub.ListEvents(pb.ListEventsRequest(instance_ids=["a"]))).events
        [event] = [event for event in events if event.reason == "Signal"]
        assert event.kind == pb.EVENT_KIND_REQUEST
        assert event.message == "SIGKILL to its main process, as requested"


@pytest.mark.parametrize(
    ("instance_id", "word", "code", "why"),
    [
        ("nobody", "HUP", CODE.NOT_FOUND, "no instance 'nobody' on this host"),
        ("a", "HOP", CODE.INVALID_ARGUMENT, "'HOP' is no signal; give a name or number"),
        ("a", "0", CODE.INVALID_ARGUMENT, "'0' is no signal"),
        ("b", "HUP", CODE.FAILED_PRECONDITION, "cannot signal 'b': nothing of it runs"),
    ],
)
async def test_a_signal_to_nothing_is_refused(
    tmp_path: Path, instance_id: str, word: str, code: grpc.StatusCode, why: str
) -> None:
    async with server_harness(tmp_path, [spec("a"), replace(spec("b"), initial_target=Target.DOWN)]) as h:
        call = h.stub().Signal(pb.SignalRequest(instance_id=instance_id, signal=word))
        refusal = await refused(call)
        assert refusal.code is code
        assert why in refusal.message


async def test_a_restart_gives_a_new_run_and_keeps_the_target(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        before = {r.key.instance_id: r.pid for r in h.host.runs}
        await h.restart("a")
        assert {r.key.instance_id: r.pid for r in h.host.runs if r.key.instance_id != "a"} == {
            i: pid for i, pid in before.items() if i != "a"
        }
        one = await stub.GetInstance(pb.GetInstanceRequest(instance_id="a"))
        assert one.instance.target_state == pb.TARGET_STATE_UP


async def test_die_needs_the_epoch_of_the_running_daemon(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        error = await refused(stub.Die(pb.DieRequest(expected_epoch="earlier")))
        assert (error.code, error.reason) == (CODE.ABORTED, "STALE_EPOCH")
        assert not h.died
        answer = await stub.Die(pb.DieRequest(expected_epoch=h.epoch))
        assert answer.epoch == h.epoch
        assert h.died == [frozenset()]
        assert not h.host.runs


async def test_upgrade_needs_the_running_epoch_and_a_version_that_starts(
    tmp_path: Path,
) -> None:
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


async def test_die_leaves_disowned_processes_running(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        await h.stub().Die(pb.DieRequest(disown_processes=True))
        assert h.died == [frozenset({Management.HOST})]
        assert len(h.host.runs) == 3


async def test_stopping_processes_cannot_be_disowned(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        h.host.behave("a", Behaviour(ignores=frozenset({signal.SIGINT})))
        await h.restart("a")
        stopping = h.stub().StopManager(pb.StopManagerRequest())
        await until(lambda: h.store.snapshot().manager.state is ManagerState.STOPPING)
        error = await refused(h.stub().Die(pb.DieRequest(disown_processes=True)))
        assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "MANAGER_STOPPING")
        assert not h.died
        stopping.cancel()


async def test_die_may_be_repeated(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        h.host.behave("a", Behaviour(ignores=frozenset({signal.SIGINT})))
        await h.restart("a")
        request = pb.DieRequest(disown_dockers=True)
        calls = [h.stub().Die(request) for _ in range(2)]
        await until(lambda: h.died == [frozenset({Management.DOCKER})] * 2)
        for call in calls:
            call.cancel()


async def test_die_is_refused_during_an_upgrade(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        h.being_upgraded = True
        error = await refused(h.stub().Die(pb.DieRequest()))
        assert (error.code, error.reason) == (CODE.UNAVAILABLE, "BEING_UPGRADED")
        assert h.store.snapshot().manager.state is ManagerState.RUNNING
        assert "Die" not in [event.entry.reason for event in h.store.events_since(0).events]


async def test_a_deadline_is_kept_while_a_stop_takes_longer(tmp_path: Path) -> None:
    async with server_harness(tmp_path, started=False) as h:
        h.host.behave("a", Behaviour(ignores=frozenset({2, 15})))
        await asyncio.wrap_future(h.supervisor.start_manager())
        await until(lambda: len(h.host.runs) == 3)
        stub = h.stub()
        await stub.GetStatus(pb.GetStatusRequest())  # connects the channel
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StopManager(pb.StopManagerRequest(), timeout=2)
        assert caught.value.code() is CODE.DEADLINE_EXCEEDED
        status = await stub.GetStatus(pb.GetStatusRequest())
        assert status.manager.state == pb.MANAGER_STATE_STOPPING
