"""Requests and streams that name instances by selector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.spec import HostSpec

from tests.in_memory import MemoryConfig
from tests.rpc.harness import WatchState, refused, server_harness, spec, until

CODE = grpc.StatusCode
SPECS = (
    replace(spec("cam1", "Camera"), labels=(("rack", "3"),)),
    replace(spec("cam2", "Camera"), labels=(("cold", ""), ("rack", "4"))),
    replace(spec("thermo1", "Thermo"), labels=(("rack", "3"),)),
)


def by(selector: str, target: pb.TargetState.ValueType, *, failing: bool = False) -> pb.TargetChange:
    return pb.TargetChange(selector=selector, target_state=target, failing=failing)


async def test_an_update_by_selector_changes_what_matches_at_that_moment(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub = h.stub()
        answer = await stub.Update(
            pb.UpdateRequest(requests=[by("cam*", pb.TARGET_STATE_DOWN), by("@rack=4", pb.TARGET_STATE_UP)])
        )
        targets = {g.instance_id: g.target_state for g in answer.generations}
        assert targets == {"cam1": pb.TARGET_STATE_DOWN, "cam2": pb.TARGET_STATE_UP}
        await until(lambda: h.host.run_of("cam1") is None)
        assert h.host.run_of("thermo1") is not None


async def test_a_reload_selects_among_the_instances_of_the_new_config(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        h.config = MemoryConfig(HostSpec("host", (*SPECS, spec("new1", "Camera"))))
        request = pb.UpdateRequest(reload_config=True, requests=[by("class:Camera", pb.TARGET_STATE_DOWN)])
        trial = pb.UpdateRequest(validate_only=True)
        trial.MergeFrom(request)
        would = await h.stub().Update(trial)
        answer = await h.stub().Update(request)
        for each in (would, answer):
            assert [g.instance_id for g in each.generations] == ["cam1", "cam2", "new1"]
            assert {g.target_state for g in each.generations} == {pb.TARGET_STATE_DOWN}


@pytest.mark.parametrize("reload_config", [False, True])
async def test_a_selector_without_an_instance_changes_nothing(tmp_path: Path, *, reload_config: bool) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub, revision = h.stub(), h.store.revision
        changes = [by("cam*", pb.TARGET_STATE_DOWN), by("class:Disk", pb.TARGET_STATE_DOWN)]
        refusal = await refused(stub.Update(pb.UpdateRequest(requests=changes, reload_config=reload_config)))
        assert (refusal.code, refusal.reason) == (CODE.NOT_FOUND, "UNKNOWN_INSTANCE")
        assert list(refusal.violations) == ["requests[1]"]
        assert "classes: Camera, Thermo" in refusal.message
        assert h.store.revision == revision


async def test_a_selector_without_a_meaning_is_refused(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub = h.stub()
        empty = await refused(stub.Update(pb.UpdateRequest(requests=[by("", pb.TARGET_STATE_UP)])))
        assert empty.violations == {"requests[0].selector": "a selector must not be empty"}
        for call in (
            stub.ListInstances(pb.ListInstancesRequest(selectors=["a", "class:"])),
            stub.Restart(pb.RestartRequest(selectors=["a", "class:"])),
            stub.ListEvents(pb.ListEventsRequest(selectors=["a", "class:"])),
            anext(aiter(stub.WatchStatus(pb.WatchStatusRequest(selectors=["a", "class:"])))),
            anext(aiter(stub.WatchEvents(pb.WatchEventsRequest(selectors=["a", "class:"])))),
        ):
            refusal = await refused(call)
            assert refusal.code is CODE.INVALID_ARGUMENT
            assert "names nothing" in refusal.violations["selectors[1]"]


async def test_the_number_of_selectors_is_limited(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub, many = h.stub(), ["cam*"] * 33
        for call in (
            stub.Update(pb.UpdateRequest(requests=[by(text, pb.TARGET_STATE_UP) for text in many])),
            stub.Restart(pb.RestartRequest(selectors=many)),
            stub.ListInstances(pb.ListInstancesRequest(selectors=many)),
            anext(aiter(stub.WatchStatus(pb.WatchStatusRequest(selectors=many)))),
        ):
            refusal = await refused(call)
            assert refusal.metadata["limit"] == "max-selectors-per-request"


async def test_a_list_has_the_selected_and_the_failing_instances(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub = h.stub()

        async def ids(*selectors: str, failing: bool = False, named: tuple[str, ...] = ()) -> list[str]:
            request = pb.ListInstancesRequest(selectors=selectors, failing=failing, instance_ids=named)
            return [i.instance_id for i in (await stub.ListInstances(request)).instances]

        assert await ids("@rack=3") == ["cam1", "thermo1"]
        assert await ids("cam2", named=("thermo1",)) == ["cam2", "thermo1"]
        assert await ids(failing=True) == []
        h.call_soon(lambda: h.host.crash("cam2", ExitStatus(3)))
        await until(lambda: h.host.run_of("cam2") is None)
        assert await ids(failing=True) == ["cam2"]
        assert await ids("thermo*", failing=True) == []
        one = (await stub.GetInstance(pb.GetInstanceRequest(instance_id="cam2"))).instance
        assert one.failing
        assert dict(one.labels) == {"cold": "", "rack": "4"}
        refusal = await refused(ids("nosuch*"))
        assert refusal.code is CODE.NOT_FOUND
        assert list(refusal.violations) == ["selectors[0]"]


async def test_pages_of_a_selector_go_on_when_its_instances_are_gone(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub = h.stub()
        first = await stub.ListInstances(pb.ListInstancesRequest(selectors=["cam*"], page_size=1))
        h.config = MemoryConfig(HostSpec("host", SPECS[2:]))
        await stub.Update(pb.UpdateRequest(reload_config=True))
        await until(lambda: set(h.store.snapshot().instances) == {"thermo1"})
        rest = await stub.ListInstances(
            pb.ListInstancesRequest(selectors=["cam*"], page_size=1, page_token=first.next_page_token)
        )
        assert not rest.instances


async def test_a_restart_by_selector_restarts_those_with_the_target_up(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub = h.stub()
        await stub.Update(pb.UpdateRequest(requests=[by("cam2", pb.TARGET_STATE_DOWN)]))
        answer = await stub.Restart(pb.RestartRequest(selectors=["cam*"]))
        assert [g.instance_id for g in answer.generations] == ["cam1"]
        refusal = await refused(stub.Restart(pb.RestartRequest(selectors=["cam2*"])))
        assert (refusal.code, list(refusal.violations)) == (CODE.INVALID_ARGUMENT, ["selectors[0]"])
        none = await stub.Restart(pb.RestartRequest(failing=True))
        assert not none.generations


async def test_a_watch_by_selector_follows_who_matches(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub, view = h.stub(), WatchState()
        stream = stub.WatchStatus(pb.WatchStatusRequest(selectors=["@rack=3"]))
        await view.read(stream, lambda: view.instances.keys() == {"cam1", "thermo1"})
        moved = replace(SPECS[0], labels=(("rack", "5"),))
        new = replace(spec("disk"), labels=(("rack", "3"),))
        h.config = MemoryConfig(HostSpec("host", (moved, SPECS[1], SPECS[2], new)))
        await stub.Update(pb.UpdateRequest(reload_config=True))
        await view.read(stream, lambda: view.instances.keys() == {"disk", "thermo1"})


async def test_a_watch_of_failing_instances_loses_those_that_recover(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        view = WatchState()
        stream = h.stub().WatchStatus(pb.WatchStatusRequest(failing=True))
        await view.read(stream, lambda: view.manager is not None)
        assert not view.instances
        h.call_soon(lambda: h.host.crash("cam1", ExitStatus(3)))
        await view.read(stream, lambda: view.instances.keys() == {"cam1"})
        await view.read(stream, lambda: not view.instances)


async def test_events_by_selector_include_those_of_instances_that_are_gone(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS) as h:
        stub = h.stub()
        h.config = MemoryConfig(HostSpec("host", SPECS[1:]))
        await stub.Update(pb.UpdateRequest(reload_config=True))
        await until(lambda: "cam1" not in h.store.snapshot().instances)

        async def ids(*selectors: str) -> set[str]:
            answer = await stub.ListEvents(pb.ListEventsRequest(selectors=selectors))
            return {event.instance_id for event in answer.events}

        assert await ids("cam*") == {"cam1", "cam2"}
        assert await ids("@rack=3", "cam2") == {"thermo1", "cam2"}
        assert await ids("nosuch*") == set()
        stream = aiter(stub.WatchEvents(pb.WatchEventsRequest(selectors=["thermo*"])))
        await anext(stream)
        await stub.Update(
            pb.UpdateRequest(requests=[by("cam*", pb.TARGET_STATE_DOWN), by("th*", pb.TARGET_STATE_DOWN)])
        )
        assert {event.instance_id for event in (await anext(stream)).events} == {"thermo1"}
