"""RemoveOrphans over the wire, with an engine that a test moves on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.service import Orphan

from tests.rpc.conftest import House, house, messages, refused, run

CODE = grpc.StatusCode
OLD = Orphan("a" * 64, "/lab/compose.yaml", "ocs-old", True, "sha256:1", 0)
OTHER = Orphan("ab" + 62 * "b", "/lab/compose.yaml", "ocs-other", False, "sha256:1", 3)


def publish(h: House, *orphans: Orphan) -> None:
    manager = replace(h.store.snapshot().manager, orphans={o.container_id: o for o in orphans})
    h.store.publish([], manager=manager)


def test_orphans_are_removed_and_the_status_shows_it_before_the_result(tmp_path: Path) -> None:
    async def play() -> None:
        async with house(tmp_path) as h:
            publish(h, OLD, OTHER)

            def removal(container_id: str) -> None:
                left = dict(h.store.snapshot().manager.orphans)
                del left[container_id]
                publish(h, *left.values())

            h.engine.on_removal = removal
            h.engine.refuses = {OTHER.container_id: "the engine says no"}
            told = await messages(h.stub().RemoveOrphans(pb.RemoveOrphansRequest(stop_timeout=Duration())))
            assert {m.removal.service: (m.removal.removed, m.removal.message) for m in told[:-1]} == {
                "ocs-old": (True, ""), "ocs-other": (False, "the engine says no")
            }  # fmt: skip
            assert (told[-1].result.removed, told[-1].result.failed) == (1, 1)
            assert set(h.engine.removed) == {(OLD.container_id, 0.0), (OTHER.container_id, 0.0)}

    run(play())


def test_only_the_orphans_that_are_named_are_removed(tmp_path: Path) -> None:
    async def play() -> None:
        async with house(tmp_path) as h:
            stub = h.stub()
            publish(h, OLD, OTHER)
            for asked, code in (
                (["f"], CODE.NOT_FOUND),
                ([""], CODE.NOT_FOUND),
                (["a"], CODE.INVALID_ARGUMENT),
            ):
                error = await refused(stub.RemoveOrphans(pb.RemoveOrphansRequest(container_ids=asked)).read())
                assert (error.code, list(error.violations)) == (code, ["container_ids[0]"])
            assert not h.engine.removed
            h.engine.on_removal = lambda _: publish(h, OLD)
            told = await messages(stub.RemoveOrphans(pb.RemoveOrphansRequest(container_ids=["ab"])))
            assert [m.removal.service for m in told[:-1]] == ["ocs-other"]
            assert h.engine.removed == [(OTHER.container_id, 10.0)]

    run(play())
