"""RemoveOrphans over gRPC, with a fake Docker Engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.compose import Orphan
from hostmanager_server.rpc import orphans as rpc_orphans

from tests.rpc.harness import ServerHarness, messages, refused, server_harness

CODE = grpc.StatusCode
OLD = Orphan("a" * 64, "/lab/compose.yaml", "ocs-old", True, "sha256:1", 0)
OTHER = Orphan("ab" + 62 * "b", "/lab/compose.yaml", "ocs-other", False, "sha256:1", 3)


def publish(h: ServerHarness, *orphans: Orphan) -> None:
    manager = replace(h.store.snapshot().manager, orphans={o.container_id: o for o in orphans})
    h.store.publish([], manager=manager)


async def test_orphans_are_removed_and_status_and_events_show_it_before_the_result(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, OLD, OTHER)

        def removal(container_id: str) -> None:
            h.keep_supervisor_busy()
            remaining = dict(h.store.snapshot().manager.orphans)
            del remaining[container_id]
            publish(h, *remaining.values())

        h.engine.on_removal = removal
        h.engine.refusals = {OTHER.container_id: "the engine says no"}
        responses = await messages(h.stub().RemoveOrphans(pb.RemoveOrphansRequest(stop_timeout=Duration())))
        assert {m.removal.service: (m.removal.removed, m.removal.message) for m in responses[:-1]} == {
            "ocs-old": (True, ""), "ocs-other": (False, "the engine says no")
        }  # fmt: skip
        assert (responses[-1].result.removed, responses[-1].result.failed) == (1, 1)
        assert set(h.engine.removed) == {(OLD.container_id, 0.0), (OTHER.container_id, 0.0)}
        reasons = [event.entry.reason for event in h.store.events_since(0).events]
        logged = [reason for reason in reasons if reason.endswith("Removed")]
        assert sorted(logged) == ["OrphanNotRemoved", "OrphanRemoved"]


async def test_only_the_orphans_that_are_named_are_removed(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        publish(h, OLD, OTHER)
        for prefixes, code in (
            (["f"], CODE.NOT_FOUND),
            ([""], CODE.NOT_FOUND),
            (["a"], CODE.INVALID_ARGUMENT),
        ):
            error = await refused(stub.RemoveOrphans(pb.RemoveOrphansRequest(container_ids=prefixes)).read())
            assert (error.code, list(error.violations)) == (code, ["container_ids[0]"])
        assert not h.engine.removed
        h.engine.on_removal = lambda _: publish(h, OLD)
        responses = await messages(stub.RemoveOrphans(pb.RemoveOrphansRequest(container_ids=["ab"])))
        assert [m.removal.service for m in responses[:-1]] == ["ocs-other"]
        assert h.engine.removed == [(OTHER.container_id, 10.0)]


async def test_a_container_whose_service_came_back_is_not_removed(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, OLD, OTHER)
        # While the engine removes the first container, the service of the second comes back.
        h.engine.on_removal = lambda _: publish(h)
        responses = await messages(h.stub().RemoveOrphans(pb.RemoveOrphansRequest()))
        assert sorted(m.removal.removed for m in responses[:-1]) == [False, True]
        assert len(h.engine.removed) == 1
        assert (responses[-1].result.removed, responses[-1].result.failed) == (1, 1)


async def test_a_status_that_never_shows_the_removal_delays_the_result_only_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_orphans, "SHOWN_WITHIN", 0.5)

    async with server_harness(tmp_path) as h:
        publish(h, OLD)

        async def keep_busy() -> None:
            while True:
                publish(h, OLD)
                await asyncio.sleep(0.01)

        busy = asyncio.create_task(keep_busy())
        responses = await messages(h.stub().RemoveOrphans(pb.RemoveOrphansRequest()))
        busy.cancel()
        assert responses[-1].result.removed == 1


async def test_an_impossible_removal_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        publish(h, OLD)
        for given in (Duration(seconds=-1), Duration(seconds=3601)):
            request = pb.RemoveOrphansRequest(stop_timeout=given)
            error = await refused(h.stub().RemoveOrphans(request).read())
            assert (error.code, list(error.violations)) == (CODE.INVALID_ARGUMENT, ["stop_timeout"])
        h.engine.failure = "there is no Docker Engine; start it"
        unreachable = await refused(h.stub().RemoveOrphans(pb.RemoveOrphansRequest()).read())
        assert (unreachable.code, unreachable.reason, unreachable.message) == (
            CODE.UNAVAILABLE, "ENGINE_UNREACHABLE", h.engine.failure
        )  # fmt: skip
        assert not h.engine.removed
    (other := tmp_path / "other").mkdir()
    async with server_harness(other, compose=False) as h:
        none = await refused(h.stub().RemoveOrphans(pb.RemoveOrphansRequest()).read())
        assert (none.code, none.reason) == (CODE.FAILED_PRECONDITION, "NO_COMPOSE_FILES")
