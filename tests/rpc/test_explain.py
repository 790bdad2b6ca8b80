"""Explain: what is not as wanted, its past, and who waits for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.model import State
from hostmanager_server.core.spec import Backoff, RestartPolicy, Target

from tests.rpc.harness import ServerHarness, down, refused, server_harness, spec, until
from tests.rpc.test_events import earlier_daemon

CODE = grpc.StatusCode
SLOW = RestartPolicy(backoff=Backoff(initial=1000.0, maximum=1000.0))


async def explain(h: ServerHarness, *instance_ids: str) -> pb.ExplainResponse:
    answer: pb.ExplainResponse = await h.stub().Explain(pb.ExplainRequest(instance_ids=instance_ids))
    return answer


def state_of(h: ServerHarness, instance_id: str) -> State:
    return h.store.snapshot().instances[instance_id].instance.standing.state


async def test_a_host_in_order_needs_no_explanation(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        answer = await explain(h)
        assert (list(answer.explanations), answer.as_wanted, answer.more) == ([], 3, 0)
        assert answer.manager.state == pb.MANAGER_STATE_RUNNING
        (one,) = (await explain(h, "a")).explanations
        assert one.as_wanted
        assert not one.hints


async def test_a_crash_is_explained_with_its_exit_and_those_that_wait(tmp_path: Path) -> None:
    a = replace(spec("a"), restart=SLOW)
    async with server_harness(tmp_path, [a, spec("b", target=Target.DOWN), spec("c")]) as h:
        h.call_soon(lambda: h.host.crash("a", ExitStatus(127)))
        await until(lambda: state_of(h, "a") is State.START_AT)
        answer = await explain(h)
        (one,) = answer.explanations
        assert (one.instance.instance_id, one.as_wanted, answer.as_wanted) == ("a", False, 2)
        (end,) = one.ends
        assert (end.reason, end.exit.code) == ("Exited", 127)
        assert one.since == end.time
        assert one.instance.HasField("at"), "the next attempt"
        assert one.hints[0].startswith("a program was not found")


async def test_waits_are_named_on_both_sides(tmp_path: Path) -> None:
    top = replace(spec("top"), depends_on=("base",))
    async with server_harness(tmp_path, [spec("base", target=Target.DOWN), top], started=False) as h:
        h.supervisor.start_manager()
        await until(lambda: "top" in h.store.snapshot().instances and state_of(h, "top") is State.START)
        (one,) = (await explain(h)).explanations
        assert (one.instance.instance_id, list(one.instance.waiting_for)) == ("top", ["base"])
        assert one.hints[0] == "`hostmanager up top --with-dependencies` starts base, too"
        (base,) = (await explain(h, "base")).explanations
        assert list(base.needed_by) == ["top"]


async def test_a_request_that_names_no_instance_is_refused(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        error = await refused(h.stub().Explain(pb.ExplainRequest(instance_ids=["a", "nosuch"])))
        assert error.code is CODE.NOT_FOUND
        assert error.violations.keys() == {"instance_ids[1]"}


async def test_the_past_reaches_into_earlier_daemons(tmp_path: Path) -> None:
    earlier_daemon(tmp_path)
    async with server_harness(tmp_path) as h:
        (one,) = (await explain(h, "b")).explanations
        assert [event.message for event in one.ends] == [f"event {n}" for n in (40, 38, 36, 34, 32)]
        assert one.more_ends == 15


async def test_many_instances_are_explained_up_to_a_limit(tmp_path: Path) -> None:
    async with server_harness(tmp_path, [spec(f"i{n:03}") for n in range(105)]) as h:
        await h.stub().Update(pb.UpdateRequest(requests=down("i104")))
        ids = [f"i{n:03}" for n in range(105)]
        answer = await explain(h, *ids)
        assert (len(answer.explanations), answer.more) == (100, 5)
