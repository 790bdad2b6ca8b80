"""DockerPull over gRPC, with a fake Docker Engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import new_instance
from hostmanager_server.core.spec import InstanceSpec, Management, PullPolicy, ServiceSpec, Target
from hostmanager_server.rpc.ports import ImageProgress, LayerProgress, PullState
from hostmanager_server.rpc.pull import images_to_pull
from hostmanager_server.state.store import Store

from tests.core.instances import with_fields
from tests.rpc.harness import PATIENCE, ServerHarness, messages, refused, server_harness, until

CODE = grpc.StatusCode


def service(instance_id: str, image: str, **changes: Any) -> InstanceSpec:
    wanted = ServiceSpec("lab", ("/lab/compose.yaml",), instance_id, image, **changes)
    return InstanceSpec(instance_id, UNCLAIMED, Management.DOCKER, Target.PASSIVE, service=wanted)


def publish(h: ServerHarness, *specs: InstanceSpec) -> None:
    h.store.publish([new_instance(spec) for spec in specs])


async def test_a_pull_is_reported_from_its_start_to_its_result(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, service("x", "agent:2"))
        call = h.stub().DockerPull(pb.DockerPullRequest(detach=True))
        first: Any = await call.read()
        assert [(i.image, i.state, list(i.instance_ids)) for i in first.images] == [
            ("agent:2", pb.ImagePull.STATE_WAITING, ["x"])
        ]
        assert h.engine.pull is not None
        layers = (LayerProgress("l1", "Downloading", 10, 100),)
        pulling = ImageProgress("agent:2", ("x",), PullState.PULLING, "Downloading", layers)
        h.engine.pull.put(pulling)
        second: Any = await call.read()
        assert second.images[0].layers[0].current == 10
        h.engine.pull.put(replace(pulling, state=PullState.FAILED, message="no such image"), over=True)
        last = (await messages(call))[-1]
        assert (last.result.images, last.result.failed) == (1, 1)
        assert last.images[0].message == "no such image"
        assert h.engine.pull_requests[0][1:] == (True, 60.0)
        assert h.engine.pull.followers == 0


async def test_a_second_pull_joins_and_a_client_that_leaves_stops_following(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, service("x", "agent:2"))
        first: Any = h.stub().DockerPull(pb.DockerPullRequest())
        assert not (await first.read()).joined
        h.engine.failure = "a client that joins does not need the engine"
        second: Any = h.stub().DockerPull(pb.DockerPullRequest())
        assert (await second.read()).joined
        pull = h.engine.pull
        assert pull is not None
        assert pull.followers == 2
        first.cancel()
        await until(lambda: pull.followers == 1)
        pull.put(ImageProgress("agent:2", ("x",), PullState.PULLED), over=True)
        assert (await messages(second))[-1].result.pulled == 1
        assert pull.followers == 0


async def test_an_impossible_pull_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        publish(h, service("x", "agent:2"))
        unknown = await refused(stub.DockerPull(pb.DockerPullRequest(instance_ids=["nosuch"])).read())
        assert (unknown.code, list(unknown.violations)) == (
            CODE.NOT_FOUND,
            ["instance_ids[0]"],
        )
        native = await refused(stub.DockerPull(pb.DockerPullRequest(instance_ids=["x", "a"])).read())
        assert (native.code, list(native.violations)) == (
            CODE.INVALID_ARGUMENT, ["instance_ids[1]"]
        )  # fmt: skip
        request = pb.DockerPullRequest(progress_timeout=Duration(nanos=1))
        late = await refused(stub.DockerPull(request).read())
        assert (late.code, list(late.violations)) == (
            CODE.INVALID_ARGUMENT, ["progress_timeout"]
        )  # fmt: skip
        h.engine.failure = "there is no Docker Engine; start it"
        unreachable = await refused(stub.DockerPull(pb.DockerPullRequest()).read())
        assert (unreachable.code, unreachable.reason, unreachable.message) == (
            CODE.UNAVAILABLE, "ENGINE_UNREACHABLE", h.engine.failure
        )  # fmt: skip
        assert not h.engine.pull_requests


async def test_without_compose_files_there_is_nothing_to_pull(tmp_path: Path) -> None:
    async with server_harness(tmp_path, compose=False) as h:
        error = await refused(h.stub().DockerPull(pb.DockerPullRequest()).read())
        assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "NO_COMPOSE_FILES")
        assert "--docker-compose" in error.message


async def test_a_reader_that_stalls_and_leaves_stops_following(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, service("x", "agent:2"))
        call: Any = h.stub().DockerPull(pb.DockerPullRequest())
        await call.read()
        pull = h.engine.pull
        assert pull is not None
        for word in ("Downloading", "Extracting"):  # each takes more than half of gRPC's buffer
            layers = (LayerProgress("l" * 3_000_000, word),)
            pull.put(ImageProgress("agent:2", ("x",), PullState.PULLING, "", layers))
            await until(lambda: pull.read_version == pull.version)
        call.cancel()
        await until(lambda: pull.followers == 0 and not pull.listeners)


async def test_a_pull_ends_with_the_daemon(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, service("x", "agent:2"))
        call: Any = h.stub().DockerPull(pb.DockerPullRequest())
        await call.read()
        h.hub.close()
        assert (await refused(messages(call))).reason == "SHUTTING_DOWN"
        assert h.engine.pull is not None
        await until(lambda: h.engine.pull is not None and not h.engine.pull.followers)


async def test_a_slow_reader_skips_intermediate_progress(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, service("x", "agent:2"))
        call: Any = h.stub().DockerPull(pb.DockerPullRequest())
        await call.read()
        assert h.engine.pull is not None
        for number in range(1000):
            layers = (LayerProgress("l1", "Downloading", number, 1000),)
            h.engine.pull.put(ImageProgress("agent:2", ("x",), PullState.PULLING, "", layers))
        h.engine.pull.put(ImageProgress("agent:2", ("x",), PullState.PULLED), over=True)
        responses = await messages(call)
        assert len(responses) < 10
        assert responses[-1].result.pulled == 1


async def test_the_event_log_has_the_end_of_a_pull_before_its_followers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostmanager_server.rpc.pull.LOGGED_WITHIN", PATIENCE)

    async with server_harness(tmp_path) as h:
        publish(h, service("x", "agent:2"))
        call: Any = h.stub().DockerPull(pb.DockerPullRequest())
        await call.read()
        assert h.engine.pull is not None
        h.keep_supervisor_busy()
        h.engine.pull.put(ImageProgress("agent:2", ("x",), PullState.PULLED), over=True)
        await messages(call)
        assert [e.entry.reason for e in h.store.events_since(0).events][-1] == "PullEnded"


async def test_the_event_log_has_the_result_of_a_pull_without_followers(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, service("x", "agent:2"), service("y", "agent:3"))
        call: Any = h.stub().DockerPull(pb.DockerPullRequest(detach=True))
        await call.read()
        pull = h.engine.pull
        assert pull is not None
        call.cancel()
        await until(lambda: not pull.followers)
        pull.put(ImageProgress("agent:3", ("y",), PullState.PULLED))
        pull.put(ImageProgress("agent:2", ("x",), PullState.FAILED, "no such image"), over=True)

        def log_entries() -> list[tuple[str, str]]:
            return [(e.entry.reason, e.entry.message) for e in h.store.events_since(0).events]

        await until(lambda: any(reason == "PullEnded" for reason, _ in log_entries()))
        assert log_entries()[-2:] == [
            ("DockerPull", "pull of agent:2, agent:3"),
            ("PullEnded", "pull ended: 1 pulled, 1 failed: agent:2: no such image"),
        ]


def snapshot_of(*specs: InstanceSpec, image_id: str = "unknown") -> Any:
    store = Store("e", ManagerStatus(ManagerState.RUNNING, "host", "site.yaml"))
    status = ServiceStatus(image_id=image_id)
    store.publish([with_fields(new_instance(spec), service=status) for spec in specs])
    return store.snapshot()


def test_an_image_of_several_services_is_pulled_once_by_the_most_eager_policy() -> None:
    specs = (
        service("x", "agent:2", pull_policy=PullPolicy.NEVER),
        service("y", "agent:2", pull_policy=PullPolicy.MISSING),
        service("z", "other:1"),
    )
    found = images_to_pull(snapshot_of(*specs), [], new_only=False)
    assert [(i.image, i.instance_ids, i.policy) for i in found] == [
        ("agent:2", ("x", "y"), PullPolicy.MISSING),
        ("other:1", ("z",), PullPolicy.ALWAYS),
    ]


def test_an_instance_named_twice_counts_once() -> None:
    found = images_to_pull(snapshot_of(service("x", "agent:2")), ["x", "x"], new_only=False)
    assert [i.instance_ids for i in found] == [("x",)]


def test_the_platform_of_the_service_is_pulled() -> None:
    found = images_to_pull(snapshot_of(service("x", "agent:2", platform="linux/arm64")), [], new_only=False)
    assert [i.platform for i in found] == ["linux/arm64"]


@pytest.mark.parametrize(("image_id", "count"), [("unknown", 1), ("sha256:1", 0)])
def test_new_only_leaves_out_what_the_engine_has(image_id: str, count: int) -> None:
    assert (
        len(images_to_pull(snapshot_of(service("x", "agent:2"), image_id=image_id), [], new_only=True))
        == count
    )
