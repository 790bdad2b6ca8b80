"""wait_for of both clients."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import DOWN, UP, HostManagerClient, TargetNotReached, WaitProgress

from tests.client.fake_daemon import FakeDaemon


def generations(answer: Any) -> dict[str, int]:
    return {g.instance_id: g.generation for g in answer.generations}


def test_a_target_that_is_reached_already_ends_the_wait_at_once(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.add("data2")
    progress = client.wait_for(generations(client.update({"all": DOWN})), timeout=30)
    assert progress.reached == ("data1", "data2")
    assert progress.done


def test_the_wait_lasts_until_the_generation_is_carried_out(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.stubborn.add("data1")
    answer = client.restart(["data1"])
    progresses: list[WaitProgress] = []

    def settle_after_the_first(progress: WaitProgress) -> None:
        progresses.append(progress)
        if len(progresses) == 1:
            daemon.settle("data1")

    client.wait_for(generations(answer), timeout=30, on_progress=settle_after_the_first)
    assert [one.state for one in progresses[0].pending] == ["wait_dead"]
    assert progresses[-1].reached == ("data1",)


def test_being_up_is_not_enough_before_the_generation_is_carried_out(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1", generation=5, observed_generation=4)
    with pytest.raises(TargetNotReached, match=r"within 0\.2 s"):
        client.wait_for({"data1": 5}, timeout=0.2)


def test_a_timeout_names_the_late_instances_with_reasons(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.add("data2")
    daemon.stubborn.add("data2")
    answer = client.update({"all": DOWN})
    daemon.change("data2", next_action=pb.NEXT_ACTION_WAIT_DEAD, reason="Stopping", message="sent SIGINT")
    with pytest.raises(TargetNotReached, match="data2 is wait_dead: sent SIGINT") as caught:
        client.wait_for(generations(answer), timeout=1.5)
    (one,) = caught.value.unreached
    assert (one.instance_id, one.state, one.reason, one.hopeless) == ("data2", "wait_dead", "Stopping", False)


def test_an_instance_that_is_not_operable_fails_at_once(daemon: FakeDaemon, client: Any) -> None:
    daemon.add(
        "data1",
        operable=False,
        next_action=pb.NEXT_ACTION_UNKNOWN,
        reason="NotOperable",
        message="agent class 'Foo' has no command",
    )
    daemon.stubborn.add("data1")
    answer = client.update({"data1": UP})
    with pytest.raises(TargetNotReached, match="has no command") as caught:
        client.wait_for(generations(answer), timeout=3600)
    assert caught.value.unreached[0].hopeless


def test_a_target_that_another_client_changes_fails(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1", target_state=DOWN, next_action=pb.NEXT_ACTION_DOWN)
    daemon.stubborn.add("data1")
    answer = client.update({"data1": UP})

    def overrule(progress: WaitProgress) -> None:
        if progress.pending:
            daemon.stubborn.clear()
            client_of_another.update({"data1": DOWN})

    with (
        HostManagerClient(str(daemon.socket)) as client_of_another,
        pytest.raises(TargetNotReached, match="changed its target to down"),
    ):
        client.wait_for(generations(answer), timeout=3600, on_progress=overrule)


def test_an_instance_that_failed_for_good_ends_the_wait(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN, reason="Failed", message="ended with code 1")
    with pytest.raises(TargetNotReached, match="ended with code 1"):
        client.wait_for({"data1": 1}, timeout=3600)


def test_an_instance_that_finished_has_reached_its_target(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN, reason="Finished", message="completed with code 0")
    client.wait_for({"data1": 1}, timeout=3600)


def test_a_dependency_that_is_down_on_purpose_ends_the_wait(daemon: FakeDaemon, client: Any) -> None:
    message = "waiting for hub to be up (its target is down)"
    daemon.add(
        "data1",
        next_action=pb.NEXT_ACTION_START,
        reason="DependencyDown",
        message=message,
        generation=2,
        observed_generation=1,
    )
    with pytest.raises(TargetNotReached, match="its target is down"):
        client.wait_for({"data1": 2}, timeout=3600)


def test_a_removed_instance_counts_as_down_but_not_up(daemon: FakeDaemon, client: Any) -> None:
    client.wait_for({"data1": 1}, targets={"data1": DOWN}, timeout=30)
    with pytest.raises(TargetNotReached, match="no longer tracks"):
        client.wait_for({"data1": 1}, targets={"data1": UP}, timeout=3600)


def test_a_new_epoch_counts_by_its_own_generations(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1", generation=9, observed_generation=8)
    observed = threading.Event()

    def restart_daemon() -> None:
        assert observed.wait(30)
        daemon.stop()
        daemon.instances["data1"].generation = 1
        daemon.instances["data1"].observed_generation = 1
        daemon.restart("epoch-2")

    helper = threading.Thread(target=restart_daemon)
    helper.start()
    progress = client.wait_for(
        {"data1": 9}, epoch="epoch-1", timeout=30, on_progress=lambda _: observed.set()
    )
    helper.join()
    assert progress.state.epoch == "epoch-2"


def test_nothing_to_wait_for_is_reached(daemon: FakeDaemon, client: Any) -> None:
    assert client.wait_for({}).done
