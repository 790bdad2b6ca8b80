"""What was asked for outlives the daemon that was asked, unless it was asked to end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import COMMAND, Daemon, Site
from tests.waiting import wait_until

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN
SLEEP = ["sleep", "100000"]


@pytest.fixture
def two(site: Site) -> Site:
    site.write([{"instance-id": "a", "command": SLEEP}, {"instance-id": "b", "command": SLEEP}])
    return site


def test_an_acknowledged_target_survives_a_kill(two: Site) -> None:
    first = two.start()
    first.wait_for_all(UP)
    first.update(a="down")
    first.end(signal.SIGKILL)
    second = two.start()
    second.wait_for("a", DOWN)
    second.wait_for("b", UP)
    assert len(two.processes()) == 1
    recover_targets = [e for e in second.events() if e.reason == "TargetsRestored"]
    assert len(recover_targets) == 1


def test_targets_are_those_of_the_config_again_after_an_orderly_end(two: Site) -> None:
    first = two.start()
    first.wait_for_all(UP)
    first.update(a="down")
    assert first.end() == 0
    two.start().wait_for_all(UP)


def test_a_daemon_killed_while_it_ends_was_asked_to_end_all_the_same(site: Site) -> None:
    deaf = "trap '' INT TERM; touch deaf; while :; do sleep 100000; done"
    site.write([{"instance-id": "a", "command": ["sh", "-c", deaf]}])
    first = site.start()
    first.wait_for("a", UP)
    wait_until((site.folder / "deaf").exists, "the agent to be deaf")
    first.process.send_signal(signal.SIGTERM)
    first.wait_for("a", pb.NEXT_ACTION_WAIT_DEAD)
    first.end(signal.SIGKILL)
    second = site.start()
    second.wait_for("a", UP)


@pytest.mark.parametrize("ends", [False, True], ids=["it lives on", "it ends meanwhile"])
def test_an_acknowledged_restart_survives_a_kill_and_is_done_once(site: Site, ends: bool) -> None:
    deaf = "trap '' INT; echo life >> lives; while :; do sleep 100000; done"
    site.write([{"instance-id": "a", "command": ["sh", "-c", deaf], "stop-timeout": 2}])
    lives = site.folder / "lives"
    first = site.start()
    wait_until(lives.exists, "the agent to be deaf")
    before = first.instance("a").process.pid
    first.stub.Restart(pb.RestartRequest(instance_ids=["a"]), timeout=20)
    first.end(signal.SIGKILL)
    if ends:
        os.killpg(before, signal.SIGKILL)
    second = site.start()
    wait_until(lambda: lives.read_text() == "life\n" * 2, "it to be started again")
    after = second.wait_for("a", UP)
    assert after.process.pid != before
    assert after.restart_count == 0  # those are the ones that nobody asked for
    assert [e.reason for e in second.events("a")].count("Launching") == 1
    second.end(signal.SIGKILL)
    third = site.start()
    assert third.wait_for("a", UP).process.pid == after.process.pid


@pytest.mark.parametrize("flags", [(), ("--persist-targets", "never")], ids=["crash", "never"])
def test_a_manager_that_slept_starts_nothing_when_its_daemon_died(two: Site, flags: tuple[str, ...]) -> None:
    first = two.start(*flags)
    first.wait_for_all(UP)
    first.stub.StopManager(pb.StopManagerRequest(), timeout=20)
    first.end(signal.SIGKILL)
    two.write([{"instance-id": i, "command": SLEEP} for i in "abc"])  # one more than before
    second = two.start(*flags, wait=False)

    def stopped() -> list[str]:
        try:
            reasons = [e.reason for e in second.events()]
        except grpc.RpcError:  # it does not serve yet
            return []
        return reasons if "Stopped" in reasons else []

    assert "Launching" not in wait_until(stopped, "the manager to sleep")


def test_a_manager_that_slept_when_its_daemon_died_sleeps_on(two: Site) -> None:
    first = two.start()
    first.wait_for_all(UP)
    first.stub.StopManager(pb.StopManagerRequest(), timeout=20)
    first.end(signal.SIGKILL)
    second = two.start(wait=False)

    def sleeps() -> bool:
        try:
            status = second.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
        except grpc.RpcError:  # it does not serve yet
            return False
        return status.manager.state == pb.MANAGER_STATE_STOPPED and len(status.child_states) == 2

    wait_until(sleeps, "the manager to sleep")
    assert two.processes() == []
    second.stub.StartManager(pb.StartManagerRequest(), timeout=20)
    second.wait_for_all(UP)


def test_a_start_that_fails_forgets_nothing(two: Site) -> None:
    first = two.start()
    first.wait_for_all(UP)
    assert first.end() == 0
    failing = two.start("--listen", "unix:/proc/nowhere/hm.sock", wait=False)
    assert failing.process.wait(20) == 1
    assert "Traceback" not in failing.log.read_text()
    two.start().wait_for_all(UP)


def test_many_deaths_leave_one_of_each_and_the_targets_as_acknowledged(site: Site) -> None:
    # Each round a target is acknowledged, and the daemon is killed at once: whatever it was about to do is
    # left half done for the next one.
    ids = ["a", "b", "c"]
    site.write([{"instance-id": i, "command": SLEEP, "restart": {"backoff": {"initial": 0}}} for i in ids])
    daemon = site.start("--quiet")
    wanted = dict.fromkeys(ids, "up")
    for number in range(12):
        who = ids[number % 3]
        wanted[who] = "down" if wanted[who] == "up" else "up"
        daemon.update(**{who: wanted[who]})
        daemon.end(signal.SIGKILL)
        daemon = site.start("--quiet")
    for instance_id, target in wanted.items():
        daemon.wait_for(instance_id, UP if target == "up" else DOWN)
    pids = sorted(i.process.pid for i in daemon.instances().values() if i.process.pid)
    assert sorted(site.processes()) == pids


def test_what_died_with_the_daemon_is_restarted_once_and_told(site: Site) -> None:
    ids = [f"i{n}" for n in range(12)]
    site.write([{"instance-id": i, "command": SLEEP} for i in ids])
    first = site.start("--quiet")
    first.wait_for_all(UP)
    before = {i: v.process.pid for i, v in first.instances().items()}
    first.end(signal.SIGKILL)
    killed, left = ids[:5], ids[5:]
    for i in killed:
        os.kill(before[i], signal.SIGKILL)
    wait_until(lambda: len(site.processes()) == len(left), "the killed ones to be gone")
    second = site.start("--quiet")
    second.wait_for_all(UP)
    after = second.instances()
    assert {i: after[i].process.pid for i in left} == {i: before[i] for i in left}
    for i in killed:
        reasons = [event.reason for event in second.events(i)]
        assert reasons == ["EndedUnseen", "Exited", "Launching", "Up"]
        assert (after[i].last_exit.pid, after[i].restart_count) == (before[i], 1)
        assert after[i].stability < 1
    assert sorted(site.processes()) == sorted(i.process.pid for i in after.values())


def test_a_class_that_changed_meanwhile_is_reset(site: Site) -> None:
    site.write([{"instance-id": "a", "command": SLEEP}])
    first = site.start()
    before = first.wait_for("a", UP).process.pid
    first.end(signal.SIGKILL)
    site.write([{"instance-id": "a", "agent-class": "Other", "command": SLEEP}])
    second = site.start()
    wait_until(lambda: second.instance("a").agent_class == "Other", "the new class")
    assert second.wait_for("a", UP).process.pid != before
    assert len(site.processes()) == 1


def test_a_config_that_was_broken_meanwhile_loses_nobody(two: Site) -> None:
    first = two.start()
    first.wait_for_all(UP)
    first.update(b="down")
    first.wait_for("b", DOWN)
    before = first.instance("a").process.pid
    first.reload()
    good = two.file.read_text()
    first.end(signal.SIGKILL)
    two.file.write_text(good + "\n  no: [yaml")
    second = two.start()
    assert second.instance("a").process.pid == before
    assert second.instance("b").target_state == pb.TARGET_STATE_DOWN
    status = second.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager.config_parse_status["[SCF]"]
    assert not status.success
    with pytest.raises(grpc.RpcError, match="cannot use the site config"):
        second.reload()
    assert second.instance("a").process.pid == before
    two.file.write_text(good)
    second.reload()
    assert second.instance("a").process.pid == before


def test_a_config_that_was_never_in_force_is_not_fallen_back_on(two: Site) -> None:
    good = two.file.read_text()
    two.file.write_text("hosts: [")
    two.start("--quiet").end(signal.SIGKILL)
    two.file.write_text(good)
    first = two.start()
    first.stub.Update(pb.UpdateRequest(reload_config=True, validate_only=True), timeout=20)
    first.wait_for_all(UP)
    two.write([{"instance-id": "c", "command": SLEEP}])
    first.stub.Update(pb.UpdateRequest(reload_config=True, validate_only=True), timeout=20)
    first.end(signal.SIGKILL)
    two.file.write_text("hosts: [")
    second = two.start()
    assert sorted(second.instances()) == ["a", "b"]


def test_a_state_directory_that_cannot_be_written_is_said(two: Site) -> None:
    two.state_dir.write_text("a file in its place")
    daemon = two.start(wait=False)
    assert daemon.process.wait(20) == 1
    text = daemon.log.read_text()
    assert str(two.state_dir) in text
    assert "--state-dir" in text
    assert "Traceback" not in text


# --- the journal


@contextmanager
def full_disk(daemon: Daemon) -> Iterator[None]:
    """No file of the daemon grows beyond this, which is less than any change to the journal needs."""
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))


def problems(daemon: Daemon) -> list[str]:
    return list(daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager.problems)


def test_what_cannot_be_stored_is_not_acknowledged_and_is_stored_as_soon_as_it_can_be(two: Site) -> None:
    first = two.start("--quiet")
    first.wait_for_all(UP)
    with full_disk(first):
        for _ in range(2):  # asked again, there is nothing to change, and still nothing on disk
            with pytest.raises(grpc.RpcError) as refused:
                first.update(a="down")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        (problem,) = problems(first)
        said = f"cannot write the journal {two.state_dir / 'journal.sqlite'}: "
        assert problem.startswith(said)
        shown = subprocess.run(
            [COMMAND, "--address", f"unix:{two.socket}", "status"], capture_output=True, text=True, check=True
        )
        assert shown.stdout.splitlines()[1].startswith(f"daemon error: {said}")
    wait_until(lambda: not problems(first), "the journal to be caught up with")  # nobody asks again
    reasons = [e.reason for e in first.events() if e.reason.startswith("Journal")]
    assert reasons == ["JournalFailed", "JournalRecovered"]
    assert first.log.read_text().count("JournalFailed") == 1
    first.end(signal.SIGKILL)
    second = two.start()
    second.wait_for("a", DOWN)
    second.wait_for("b", UP)


def test_a_daemon_that_finds_no_room_takes_back_what_runs_all_the_same(two: Site) -> None:
    first = two.start("--quiet")
    first.wait_for_all(UP)
    first.update(a="down")
    first.wait_for("a", DOWN)
    first.end(signal.SIGKILL)
    second = two.start("--quiet", program=("sh", "-c", 'ulimit -S -f 2; exec "$0" "$@"', COMMAND))
    second.wait_for("b", UP)
    second.wait_for("a", DOWN)
    with pytest.raises(grpc.RpcError):
        second.update(b="down")
    second.wait_for("b", DOWN)  # it is in force
    assert problems(second)


def test_nothing_that_runs_is_ended_because_the_journal_is_lost(site: Site) -> None:
    names = ["up", "down", "asked"]
    site.write(
        [
            {"instance-id": "up", "command": SLEEP},
            {"instance-id": "down", "command": SLEEP, "manage": "down"},
            {"instance-id": "asked", "command": SLEEP, "manage": "down"},
        ]
    )
    first = site.start()
    first.update(asked="up")
    before = {name: first.wait_for(name, DOWN if name == "down" else UP).process.pid for name in names}
    first.end(signal.SIGKILL)
    for file in site.state_dir.glob("journal.sqlite*"):
        file.write_bytes(os.urandom(20_000))
    second = site.start("--initial-state", "down")
    lost = [e for e in second.events() if e.reason == "JournalLost"]
    assert [(e.severity, "set aside" in e.message) for e in lost] == [(pb.SEVERITY_ERROR, True)]
    after = {name: second.wait_for(name, DOWN if name == "down" else UP).process.pid for name in names}
    assert after == before
    assert sorted(e.instance_id for e in second.events() if e.reason == "TargetLost") == ["asked", "up"]
    second.end(signal.SIGKILL)
    third = site.start()
    assert {n: third.wait_for(n, DOWN if n == "down" else UP).process.pid for n in names} == before


# --- what became of the instances


def test_what_has_finished_is_not_run_a_second_time_by_the_next_daemon(site: Site) -> None:
    def once(name: str, code: int, when: str) -> dict[str, object]:
        command = ["sh", "-c", f"echo ran >> {name}; exit {code}"]
        return {"instance-id": name, "command": command, "restart": when}

    site.write([once("never", 3, "never"), once("good", 0, "on-failure")])
    daemon = site.start()

    def both_finished() -> bool:
        return all(i.reason == "Finished" for i in daemon.instances().values())

    wait_until(both_finished, "both to finish")
    daemon.reload()  # all that came before is on disk when that is answered
    daemon.end(signal.SIGKILL)
    daemon = site.start()
    after = daemon.instances()
    assert {i.reason for i in after.values()} == {"Finished"}
    assert after["never"].last_exit.code == 3
    assert len(after["never"].fail_times) == 1
    daemon.update(good="up")  # is a request for another run, and survives as one
    daemon.end(signal.SIGKILL)
    daemon = site.start()
    wait_until(lambda: (site.folder / "good").read_text().count("ran") >= 2, "the second run")
    wait_until(both_finished, "both to have finished")
    assert (site.folder / "never").read_text() == "ran\n"
    assert daemon.end() == 0
    daemon = site.start()  # which is a new beginning
    wait_until(lambda: (site.folder / "never").read_text() == "ran\nran\n", "a run after an orderly end")


def test_what_ends_as_its_daemon_dies_is_not_run_a_second_time(site: Site) -> None:
    # The runtime record is gone, and what came of the run is not on disk yet.
    command = ["sh", "-c", "echo ran >> once; while [ ! -e end ]; do sleep 0.1; done"]
    site.write([{"instance-id": "once", "command": command, "restart": "never"}])
    site.environ = {**os.environ, "HOSTMANAGER_FAILPOINTS": "committing@exit_observed=kill"}
    daemon = site.start()
    daemon.wait_for("once", UP)
    daemon.reload()  # all that came before is on disk when that is answered
    (site.folder / "end").touch()
    assert daemon.process.wait(60) == -signal.SIGKILL
    assert list((site.state_dir / "runs").glob("*.json")) == []
    site.environ = os.environ
    daemon = site.start()
    assert daemon.instance("once").reason == "Finished"
    assert (site.folder / "once").read_text() == "ran\n"


def test_a_crash_loop_goes_on_where_it_was(site: Site) -> None:
    restart = {"backoff": {"initial": "20ms", "factor": 60, "maximum": "1h"}}
    site.write([{"instance-id": "a", "command": ["false"], "restart": restart}])
    first = site.start()

    def backs_off() -> bool:
        return first.instance("a").consecutive_failures == 3

    wait_until(backs_off, "three failures")
    first.reload()  # all that came before is on disk when that is answered
    before = first.instance("a")
    first.end(signal.SIGKILL)
    second = site.start()
    after = second.wait_for("a", pb.NEXT_ACTION_START_AT)
    assert (after.consecutive_failures, after.restart_count) == (3, 2)
    assert list(after.fail_times) == list(before.fail_times)
    assert after.at == before.at
    second.update(a="up")  # starts it at once
    wait_until(lambda: second.instance("a").consecutive_failures == 4, "a fourth failure")


# --- what targets outlive


def test_always_keeps_targets_across_an_orderly_end(two: Site) -> None:
    first = two.start("--persist-targets", "always")
    first.wait_for_all(UP)
    first.update(a="down")
    first.wait_for("a", DOWN)
    assert first.end() == 0
    assert two.processes() == []
    second = two.start("--persist-targets", "always", "--initial-state", "up")
    second.wait_for("b", UP)
    second.wait_for("a", DOWN)
    second.end(signal.SIGKILL)
    third = two.start("--persist-targets", "never")
    third.wait_for_all(UP)


def test_an_initial_state_does_not_undo_what_was_acknowledged_before_a_crash(two: Site) -> None:
    first = two.start("--initial-state", "down")
    first.update(a="up")
    first.wait_for("a", UP)
    first.end(signal.SIGKILL)
    second = two.start("--initial-state", "down")  # as a service manager does
    second.wait_for("a", UP)
    second.wait_for("b", DOWN)
    assert second.end() == 0
    third = two.start("--initial-state", "down")
    third.wait_for_all(DOWN)
