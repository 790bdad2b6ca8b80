"""Targets, restarts and journals after the death or the end of a daemon."""

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
    restored = [event for event in second.events() if event.reason == "TargetsRestored"]
    assert len(restored) == 1


def test_targets_are_those_of_the_config_again_after_an_orderly_end(two: Site) -> None:
    first = two.start()
    first.wait_for_all(UP)
    first.update(a="down")
    assert first.end() == 0
    two.start().wait_for_all(UP)


def test_a_daemon_killed_during_its_end_counts_as_ended(site: Site) -> None:
    stubborn = "trap '' INT TERM; touch deaf; while :; do sleep 100000; done"
    site.write([{"instance-id": "a", "command": ["sh", "-c", stubborn]}])
    first = site.start()
    first.wait_for("a", UP)
    wait_until((site.folder / "deaf").exists, "the agent to ignore signals")
    first.process.send_signal(signal.SIGTERM)
    first.wait_for("a", pb.NEXT_ACTION_WAIT_DEAD)
    first.end(signal.SIGKILL)
    second = site.start()
    second.wait_for("a", UP)


@pytest.mark.parametrize("ends", [False, True], ids=["the agent lives on", "the agent ends"])
def test_an_acknowledged_restart_survives_a_kill_and_is_done_once(site: Site, *, ends: bool) -> None:
    stubborn = "trap '' INT; echo life >> lives; while :; do sleep 100000; done"
    site.write([{"instance-id": "a", "command": ["sh", "-c", stubborn], "stop-timeout": 2}])
    lives = site.folder / "lives"
    first = site.start()
    wait_until(lives.exists, "the agent to ignore SIGINT")
    before = first.instance("a").process.pid
    first.stub.Restart(pb.RestartRequest(instance_ids=["a"]), timeout=20)
    first.end(signal.SIGKILL)
    if ends:
        os.killpg(before, signal.SIGKILL)
    second = site.start()
    wait_until(lambda: lives.read_text() == "life\n" * 2, "the second start of the agent")
    after = second.wait_for("a", UP)
    assert after.process.pid != before
    assert after.restart_count == 0  # counts only restarts without a request
    assert [e.reason for e in second.events("a")].count("Launching") == 1
    second.end(signal.SIGKILL)
    third = site.start()
    assert third.wait_for("a", UP).process.pid == after.process.pid


@pytest.mark.parametrize("flags", [(), ("--persist-targets", "never")], ids=["crash", "never"])
def test_a_stopped_manager_starts_nothing_after_the_death_of_its_daemon(
    two: Site, flags: tuple[str, ...]
) -> None:
    first = two.start(*flags)
    first.wait_for_all(UP)
    first.stub.StopManager(pb.StopManagerRequest(), timeout=20)
    first.end(signal.SIGKILL)
    two.write([{"instance-id": i, "command": SLEEP} for i in "abc"])  # c is new
    second = two.start(*flags, wait=False)

    def stopped() -> list[str]:
        try:
            reasons = [e.reason for e in second.events()]
        except grpc.RpcError:  # the daemon does not serve yet
            return []
        return reasons if "Stopped" in reasons else []

    assert "Launching" not in wait_until(stopped, "the manager to be stopped")


def test_a_manager_stays_stopped_after_the_death_of_its_daemon(two: Site) -> None:
    first = two.start()
    first.wait_for_all(UP)
    first.stub.StopManager(pb.StopManagerRequest(), timeout=20)
    first.end(signal.SIGKILL)
    second = two.start(wait=False)

    def stopped() -> bool:
        try:
            status = second.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
        except grpc.RpcError:  # the daemon does not serve yet
            return False
        return status.manager.state == pb.MANAGER_STATE_STOPPED and len(status.child_states) == 2

    wait_until(stopped, "the manager to be stopped")
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
    # In each round, the daemon acknowledges a target and dies at once, with its work half done.
    ids = ["a", "b", "c"]
    site.write([{"instance-id": i, "command": SLEEP, "restart": {"backoff": {"initial": 0}}} for i in ids])
    daemon = site.start("--quiet")
    wanted = dict.fromkeys(ids, "up")
    for number in range(12):
        changed = ids[number % 3]
        wanted[changed] = "down" if wanted[changed] == "up" else "up"
        daemon.update(**{changed: wanted[changed]})
        daemon.end(signal.SIGKILL)
        daemon = site.start("--quiet")
    for instance_id, target in wanted.items():
        daemon.wait_for(instance_id, UP if target == "up" else DOWN)
    pids = sorted(i.process.pid for i in daemon.instances().values() if i.process.pid)
    assert sorted(site.processes()) == pids


def test_agents_that_died_with_the_daemon_are_restarted_once_and_logged(site: Site) -> None:
    ids = [f"i{n}" for n in range(12)]
    site.write([{"instance-id": i, "command": SLEEP} for i in ids])
    first = site.start("--quiet")
    first.wait_for_all(UP)
    before = {i: v.process.pid for i, v in first.instances().items()}
    first.end(signal.SIGKILL)
    killed, alive = ids[:5], ids[5:]
    for i in killed:
        os.kill(before[i], signal.SIGKILL)
    wait_until(lambda: len(site.processes()) == len(alive), "the end of the killed agents")
    second = site.start("--quiet")
    second.wait_for_all(UP)
    after = second.instances()
    assert {i: after[i].process.pid for i in alive} == {i: before[i] for i in alive}
    for i in killed:
        reasons = [event.reason for event in second.events(i)]
        assert reasons == ["EndedUnseen", "Exited", "Launching", "Up"]
        assert (after[i].last_exit.pid, after[i].restart_count) == (before[i], 1)
        assert after[i].stability < 1
    assert sorted(site.processes()) == sorted(i.process.pid for i in after.values())


def test_an_instance_with_a_class_changed_between_daemons_is_reset(site: Site) -> None:
    site.write([{"instance-id": "a", "command": SLEEP}])
    first = site.start()
    before = first.wait_for("a", UP).process.pid
    first.end(signal.SIGKILL)
    site.write([{"instance-id": "a", "agent-class": "Other", "command": SLEEP}])
    second = site.start()
    wait_until(lambda: second.instance("a").agent_class == "Other", "the new class")
    assert second.wait_for("a", UP).process.pid != before
    assert len(site.processes()) == 1


def test_a_config_broken_between_daemons_loses_no_instance(two: Site) -> None:
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


def test_an_unwritable_state_directory_is_reported(two: Site) -> None:
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
    """Limit the daemon's files to 1 KiB, too little for any journal change."""
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))


def problems(daemon: Daemon) -> list[str]:
    return list(daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager.problems)


def test_a_change_on_a_full_disk_is_refused_and_stored_when_there_is_space(two: Site) -> None:
    first = two.start("--quiet")
    first.wait_for_all(UP)
    with full_disk(first):
        for _ in range(2):  # the second request changes nothing, and the journal still lacks the first
            with pytest.raises(grpc.RpcError) as refused:
                first.update(a="down")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        wait_until(lambda: len(problems(first)) == 2, "the problems with the journal and the events")
        of_events, of_journal = problems(first)
        message = f"cannot write the journal {two.state_dir / 'journal.sqlite'}: "
        assert of_journal.startswith(message)
        assert of_events.startswith(f"cannot keep the events in {two.state_dir / 'events'}: ")
        shown = subprocess.run(
            [COMMAND, "--address", f"unix:{two.socket}", "status"], capture_output=True, text=True, check=True
        )
        assert f"daemon error: {message}" in shown.stdout
    wait_until(lambda: not problems(first), "the journal to be up to date")  # without another request
    reasons = [e.reason for e in first.events() if e.reason.startswith(("Journal", "Events"))]
    assert sorted(reasons) == ["EventsKeptAgain", "EventsNotKept", "JournalFailed", "JournalRecovered"]
    assert first.log.read_text().count("JournalFailed") == 1
    first.end(signal.SIGKILL)
    second = two.start()
    second.wait_for("a", DOWN)
    second.wait_for("b", UP)


def test_a_daemon_on_a_full_disk_adopts_running_agents(two: Site) -> None:
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
    second.wait_for("b", DOWN)  # the daemon applies the change that is not stored
    assert problems(second)


def test_a_lost_journal_ends_no_running_agent(site: Site) -> None:
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
    assert [(e.severity, "set the file aside" in e.message) for e in lost] == [(pb.SEVERITY_ERROR, True)]
    after = {name: second.wait_for(name, DOWN if name == "down" else UP).process.pid for name in names}
    assert after == before
    assert sorted(e.instance_id for e in second.events() if e.reason == "TargetLost") == ["asked", "up"]
    second.end(signal.SIGKILL)
    third = site.start()
    assert {n: third.wait_for(n, DOWN if n == "down" else UP).process.pid for n in names} == before


# --- histories of instances


def test_a_finished_instance_is_not_run_again_by_the_next_daemon(site: Site) -> None:
    def once(name: str, code: int, when: str) -> dict[str, object]:
        command = ["sh", "-c", f"echo ran >> {name}; exit {code}"]
        return {"instance-id": name, "command": command, "restart": when}

    outcomes = {"never": "Failed", "good": "Finished"}
    site.write([once("never", 3, "never"), once("good", 0, "on-failure")])
    daemon = site.start()

    def both_finished() -> bool:
        return {name: i.reason for name, i in daemon.instances().items()} == outcomes

    wait_until(both_finished, "both to finish")
    daemon.reload()  # the reply comes after all earlier changes are on disk
    daemon.end(signal.SIGKILL)
    daemon = site.start()
    after = daemon.instances()
    assert {name: i.reason for name, i in after.items()} == outcomes
    assert after["never"].last_exit.code == 3
    assert len(after["never"].fail_times) == 1
    daemon.update(good="up")  # requests another run; the request outlives the daemon
    daemon.end(signal.SIGKILL)
    daemon = site.start()
    wait_until(lambda: (site.folder / "good").read_text().count("ran") >= 2, "the second run")
    wait_until(both_finished, "both to have finished")
    assert (site.folder / "never").read_text() == "ran\n"
    assert daemon.end() == 0
    daemon = site.start()  # an orderly end clears the history
    wait_until(lambda: (site.folder / "never").read_text() == "ran\nran\n", "a run after an orderly end")


def test_an_agent_that_ends_with_its_daemon_is_not_run_again(site: Site) -> None:
    # The daemon dies after it has removed the runtime record, before the exit is on disk.
    command = ["sh", "-c", "echo ran >> once; while [ ! -e end ]; do sleep 0.1; done"]
    site.write([{"instance-id": "once", "command": command, "restart": "never"}])
    site.environ = {**os.environ, "HOSTMANAGER_FAILPOINTS": "committing@exit_observed=kill"}
    daemon = site.start()
    daemon.wait_for("once", UP)
    daemon.reload()  # the reply comes after all earlier changes are on disk
    (site.folder / "end").touch()
    assert daemon.process.wait(60) == -signal.SIGKILL
    assert list((site.state_dir / "runs").glob("*.json")) == []
    site.environ = os.environ
    daemon = site.start()
    assert daemon.instance("once").reason == "Failed", "the exit status is lost"
    assert (site.folder / "once").read_text() == "ran\n"


def test_the_next_daemon_continues_a_crash_loop(site: Site) -> None:
    restart = {"backoff": {"initial": "20ms", "factor": 60, "maximum": "1h"}}
    site.write([{"instance-id": "a", "command": ["false"], "restart": restart}])
    first = site.start()

    def backs_off() -> bool:
        return first.instance("a").consecutive_failures == 3

    wait_until(backs_off, "three failures")
    first.reload()  # the reply comes after all earlier changes are on disk
    before = first.instance("a")
    first.end(signal.SIGKILL)
    second = site.start()
    after = second.wait_for("a", pb.NEXT_ACTION_START_AT)
    assert (after.consecutive_failures, after.restart_count) == (3, 2)
    assert list(after.fail_times) == list(before.fail_times)
    assert after.at == before.at
    second.update(a="up")  # starts the instance at once
    wait_until(lambda: second.instance("a").consecutive_failures == 4, "a fourth failure")


# --- persistence of targets


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


def test_an_initial_state_does_not_undo_targets_acknowledged_before_a_crash(two: Site) -> None:
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
