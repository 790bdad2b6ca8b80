"""Supervision of real processes: restarts, targets, shutdown, reload and logs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.linux.pidfds import read_stat

from tests.e2e.daemon import Daemon, Site, environment
from tests.waiting import wait_until

UP, DOWN, WAIT_DEAD = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN, pb.NEXT_ACTION_WAIT_DEAD
SLEEP = ["sleep", "100000"]


def agent(instance_id: str, command: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"instance-id": instance_id, "command": command or SLEEP, **more}


def alive(pid: int) -> bool:
    """Return whether a process runs; false for a dead, unreaped process."""
    stat = read_stat(pid)
    return stat is not None and stat.alive


class InstanceWatch:
    """Collector of the states of one instance in a WatchStatus stream."""

    def __init__(self, daemon: Daemon, instance_id: str) -> None:
        self.states: list[pb.ManagedInstance] = []
        self._call = daemon.stub.WatchStatus(pb.WatchStatusRequest(instance_ids=[instance_id]))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: self.states, "the snapshot")

    def _read(self) -> None:
        try:
            for message in self._call:
                self.states.extend(message.snapshot.instances)
                self.states.extend(message.delta.instances)
        except grpc.RpcError:
            pass

    def close(self) -> list[pb.ManagedInstance]:
        self._call.cancel()
        self._thread.join()
        return self.states


# --- must show 2: a killed child


@pytest.mark.parametrize("backoff", [3, 0])  # 3 s lets the watcher see the states in between
def test_a_killed_child_is_replaced_and_the_watcher_sees_both(site: Site, backoff: float) -> None:
    site.write([agent("data1", restart={"backoff": {"initial": backoff}})])
    daemon = site.start()
    first = daemon.wait_for("data1", UP)
    watch = InstanceWatch(daemon, "data1")

    os.kill(first.process.pid, signal.SIGKILL)

    def replaced() -> bool:
        now = daemon.instance("data1")
        return now.next_action == UP and now.process.pid not in (0, first.process.pid)

    wait_until(replaced, "the replacement")
    second = daemon.instance("data1")
    assert not alive(first.process.pid)
    assert second.restart_count == 1
    assert second.last_exit.signal == "SIGKILL"
    assert not second.last_exit.expected
    assert second.stability < 1.0
    wait_until(lambda: watch.states[-1].process.pid == second.process.pid, "the replacement in the watch")
    states = watch.close()
    assert any(state.last_exit.signal == "SIGKILL" for state in states)
    if backoff:
        assert any(state.next_action == pb.NEXT_ACTION_START_AT and state.HasField("at") for state in states)
    kinds = [e.kind for e in daemon.events("data1")]
    exit_at = kinds.index(pb.EVENT_KIND_EXIT)
    assert kinds[exit_at + 1 :] == [pb.EVENT_KIND_LAUNCH, pb.EVENT_KIND_UP]


def test_the_backoff_grows_in_a_crash_loop_and_resets_after_a_quiet_time(site: Site) -> None:
    # The agent crashes until the flag file exists; five seconds without a crash reset the backoff.
    flag = site.folder / "flag"
    script = f"test -e {flag} && exec sleep 100000; echo no sensor; exit 3"
    backoff = {"initial": 0.02, "factor": 2, "reset-after": 5}
    site.write([agent("crashy", ["sh", "-c", script], restart={"backoff": backoff})])
    daemon = site.start()
    wait_until(lambda: daemon.instance("crashy").consecutive_failures >= 4, "four failures")
    exits = [e.time.ToNanoseconds() for e in daemon.events("crashy") if e.kind == pb.EVENT_KIND_EXIT]
    launches = [e.time.ToNanoseconds() for e in daemon.events("crashy") if e.kind == pb.EVENT_KIND_LAUNCH]
    for number, (exit_, launch) in enumerate(zip(exits, launches[1:], strict=False)):
        assert launch - exit_ >= 0.02e9 * 2**number  # a busy machine only lengthens the delay
    assert daemon.instance("crashy").last_exit.code == 3
    assert daemon.instance("crashy").last_exit.last_output == "no sensor"
    assert daemon.instance("crashy").stability == 0.0

    flag.touch()
    daemon.wait_for("crashy", UP)
    wait_until(lambda: daemon.instance("crashy").consecutive_failures == 0, "the reset of the failures")


# --- must show 3: ordered requests, all or nothing


def test_ordered_requests_all_up_then_one_down(site: Site) -> None:
    ids = [f"data{n}" for n in range(1, 6)]
    site.write([agent(i, manage="down") for i in ids])
    daemon = site.start()
    answer = daemon.update(all="up", data1="down")
    assert {g.instance_id for g in answer.generations} == set(ids)

    def settled() -> bool:
        return all(i.observed_generation == i.generation for i in daemon.instances().values())

    wait_until(settled, "everything to settle")
    states = {i: instance.next_action for i, instance in daemon.instances().items()}
    assert states == {"data1": DOWN, "data2": UP, "data3": UP, "data4": UP, "data5": UP}


def test_one_bad_entry_and_nothing_changes(site: Site) -> None:
    site.write([agent("data1"), agent("data2")])
    daemon = site.start()
    daemon.wait_for_all(UP)
    before = daemon.stub.GetStatus(pb.GetStatusRequest()).revision
    with pytest.raises(grpc.RpcError) as failure:
        daemon.update(data1="down", nosuch="down")
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    assert "nosuch" in str(failure.value.details())
    after = daemon.stub.GetStatus(pb.GetStatusRequest())
    assert after.revision == before
    assert all(child.target_state == pb.TARGET_STATE_UP for child in after.child_states)


# --- must show 4: down means the whole tree is gone


STUBBORN = """
import signal, time
for name in ("SIGINT", "SIGTERM"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
print("deaf", flush=True)
while True:
    time.sleep(1000)
"""

DAEMONISER = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.closerange(0, 1024)
        open("grandchild", "w").write(str(os.getpid()))
        while True:
            time.sleep(1000)
    os._exit(0)
os.wait()
while True:
    time.sleep(1000)
"""


def test_down_ends_deaf_agents_and_daemonised_grandchildren(site: Site) -> None:
    short: dict[str, Any] = {"stop-timeout": [0.3, 0.3]}
    site.write(
        [
            agent("deaf", [sys.executable, "-S", "-c", STUBBORN], **short),
            agent("forker", [sys.executable, "-S", "-c", DAEMONISER], **short),
        ]
    )
    daemon = site.start()
    daemon.wait_for_all(UP)
    log = Path(daemon.instance("deaf").process.log_file)
    wait_until(lambda: b"deaf" in log.read_bytes(), "the agent to ignore signals")
    pid_file = site.folder / "grandchild"
    wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the pid of the grandchild")
    grandchild = int(pid_file.read_text())
    deaf = daemon.instance("deaf").process.pid
    watches = [InstanceWatch(daemon, "deaf"), InstanceWatch(daemon, "forker")]

    daemon.update(all="down")
    daemon.wait_for_all(DOWN)

    assert not alive(deaf)
    assert not alive(grandchild)
    assert site.processes() == []
    for watch in watches:
        states = [i.next_action for i in watch.close()]
        first = states.index(WAIT_DEAD)
        assert set(states[first:]) <= {WAIT_DEAD, DOWN}  # no other state before the end of the process
    signals = [e.message for e in daemon.events("deaf") if e.kind == pb.EVENT_KIND_STOP]
    assert [message.split()[0] for message in signals] == ["SIGINT", "SIGTERM", "SIGKILL"]


# --- must show 7: resuming


def test_a_watcher_resumes_with_the_missed_changes(site: Site) -> None:
    site.write([agent("data1"), agent("data2")])
    daemon = site.start()
    daemon.wait_for_all(UP)
    token = daemon.stub.GetStatus(pb.GetStatusRequest()).resume_token
    daemon.update(data1="down")
    daemon.wait_for("data1", DOWN)
    stream = daemon.stub.WatchStatus(pb.WatchStatusRequest(resume_token=token), timeout=20)
    message = next(iter(stream))
    stream.cancel()
    assert [i.instance_id for i in message.delta.instances] == ["data1"]
    assert message.delta.instances[0].next_action == DOWN


def test_a_watcher_of_an_earlier_daemon_gets_an_explicit_resync(site: Site) -> None:
    site.write([agent("data1")])
    first = site.start()
    token = first.stub.GetStatus(pb.GetStatusRequest()).resume_token
    assert first.end() == 0
    second = site.start()
    stream = second.stub.WatchStatus(pb.WatchStatusRequest(resume_token=token), timeout=20)
    message = next(iter(stream))
    stream.cancel()
    assert message.snapshot.reason == pb.StatusSnapshot.REASON_EPOCH_CHANGED


# --- the manager and the daemon


def test_stop_manager_brings_everything_down_and_start_manager_up_again(site: Site) -> None:
    site.write([agent("data1"), agent("data2")])
    daemon = site.start()
    daemon.wait_for_all(UP)
    daemon.stub.StopManager(pb.StopManagerRequest(), timeout=20)
    assert site.processes() == []
    status = daemon.stub.GetStatus(pb.GetStatusRequest())
    assert status.manager.state == pb.MANAGER_STATE_STOPPED
    with pytest.raises(grpc.RpcError) as failure:
        daemon.update(all="up")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    daemon.stub.StartManager(pb.StartManagerRequest(), timeout=20)
    daemon.wait_for_all(UP)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_brings_everything_down_first(site: Site, signum: int) -> None:
    site.write([agent("data1"), agent("data2")])
    daemon = site.start()
    daemon.wait_for_all(UP)
    assert daemon.end(signum) == 0
    assert site.processes() == []


def test_die_brings_everything_down_and_the_next_daemon_adopts_nothing(site: Site) -> None:
    site.write([agent("data1")])
    daemon = site.start()
    pid = daemon.wait_for("data1", UP).process.pid
    epoch = daemon.stub.Die(pb.DieRequest(), timeout=20).epoch
    assert daemon.process.wait(20) == 0
    assert site.processes() == []
    again = site.start()
    instance = again.wait_for("data1", UP)
    assert instance.process.pid != pid
    assert not instance.process.adopted
    assert again.stub.GetStatus(pb.GetStatusRequest()).manager.epoch != epoch


def test_a_killed_daemon_leaves_its_agents_and_the_next_adopts_them(site: Site) -> None:
    site.write([agent("data1"), agent("data2", restart={"backoff": {"initial": 0}})])
    first = site.start()
    first.wait_for_all(UP)
    pids = {i: instance.process.pid for i, instance in first.instances().items()}
    first.end(signal.SIGKILL)
    os.kill(pids["data2"], signal.SIGKILL)

    second = site.start()
    second.wait_for_all(UP)
    adopted, restarted = second.instance("data1"), second.instance("data2")
    assert adopted.process.pid == pids["data1"]
    assert adopted.process.adopted
    assert restarted.process.pid != pids["data2"]
    assert len(site.processes()) == 2
    second.update(data1="down")
    second.wait_for("data1", DOWN)
    assert not alive(pids["data1"])


def test_die_with_disown_leaves_processes_to_the_next_daemon(site: Site) -> None:
    site.write([agent("data1")])
    daemon = site.start()
    pid = daemon.wait_for("data1", UP).process.pid
    daemon.stub.Die(pb.DieRequest(disown_processes=True), timeout=20)
    assert daemon.process.wait(20) == 0
    assert alive(pid)
    assert site.start().wait_for("data1", UP).process.pid == pid


def test_a_second_daemon_on_the_same_state_names_the_pid_of_the_first(site: Site) -> None:
    site.write([agent("data1")])
    first = site.start()
    second = site.start("--listen", f"unix:{site.folder}/other.sock", wait=False)
    assert second.process.wait(20) == 1
    text = second.log.read_text()
    assert f"pid {first.pid}" in text
    assert "Traceback" not in text
    first.wait_for("data1", UP)


# --- the site config


def test_changed_arguments_of_the_daemon_warn_that_they_need_a_start(site: Site) -> None:
    own = {"instance-id": "hm", "agent-class": "HostManager"}
    site.write([{**own, "arguments": ["--docker-service-prefix", "ocs-"]}])
    daemon = site.start()
    assert not daemon.reload().config_warnings
    site.write([{**own, "arguments": ["--docker-service-prefix", "lab-"]}])
    (warning,) = daemon.reload().config_warnings
    assert "start the daemon again" in warning.message


def test_reload_keeps_known_targets_adds_retires_and_flags(site: Site) -> None:
    site.write([agent("kept"), agent("gone"), agent("edited"), agent("reset")])
    daemon = site.start()
    daemon.wait_for_all(UP)
    daemon.update(kept="down")
    daemon.wait_for("kept", DOWN)
    before = daemon.instances()
    site.write(
        [
            agent("kept"),
            agent("edited", env={"NEW": "1"}),
            {**agent("reset"), "agent-class": "Other"},
            agent("new", manage="down"),
        ]
    )
    daemon.reload()

    def done() -> bool:
        now = daemon.instances()
        return set(now) == {"kept", "edited", "reset", "new"} and now["reset"].agent_class == "Other"

    wait_until(done, "the effects of the reload")
    daemon.wait_for("reset", UP)
    now = daemon.instances()
    assert now["kept"].next_action == DOWN
    assert now["new"].next_action == DOWN
    assert now["edited"].restart_required
    assert now["edited"].process.pid == before["edited"].process.pid
    assert now["reset"].process.pid != before["reset"].process.pid
    assert len(site.processes()) == 2

    daemon.stub.Restart(pb.RestartRequest(instance_ids=["edited"]), timeout=20)
    wait_until(lambda: not daemon.instance("edited").restart_required, "the restart")
    daemon.wait_for("edited", UP)
    assert b"NEW=1" in environment(daemon.instance("edited").process.pid)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hosts: [", ":1:"),
        ("hosts: {localhost: {agent-instances: [{agent-class: A}]}}", "instance-id"),
        (
            "hosts: {localhost: {agent-instances: [{instance-id: a, agent-class: A, manage: sideways}]}}",
            "sideways",
        ),
        (
            (
                "hosts: {localhost: {agent-instances: "
                "[{instance-id: a, agent-class: A}, {instance-id: a, agent-class: A}]}}"
            ),
            "'a'",
        ),
        (None, "No such file"),
    ],
)
def test_a_broken_config_changes_nothing_and_is_reported(site: Site, text: str | None, expected: str) -> None:
    site.write([agent("data1")])
    daemon = site.start()
    pid = daemon.wait_for("data1", UP).process.pid
    if text is None:
        site.file.unlink()
    else:
        site.file.write_text(text)
    with pytest.raises(grpc.RpcError) as failure:
        daemon.reload()
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    daemon.process.send_signal(signal.SIGHUP)
    status = daemon.stub.GetStatus(pb.GetStatusRequest()).manager.config_parse_status["[SCF]"]
    assert not status.success
    assert expected in status.message
    assert str(site.file) in status.message
    wait_until(
        lambda: len([e for e in daemon.events() if e.reason == "ConfigRejected"]) == 2, "the reload on SIGHUP"
    )
    assert daemon.instance("data1").process.pid == pid
    assert daemon.instance("data1").next_action == UP

    site.write([agent("data1"), agent("data2")])
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(daemon.instances()) == 2, "the good config")
    assert daemon.instance("data1").process.pid == pid


def test_a_daemon_that_starts_on_a_broken_config_stays_up_and_reports_it(site: Site) -> None:
    site.file.write_text("hosts: [")
    daemon = site.start()
    status = daemon.stub.GetStatus(pb.GetStatusRequest())
    assert not status.manager.config_parse_status["[SCF]"].success
    assert not status.child_states
    site.write([agent("data1")])
    daemon.reload()
    daemon.wait_for("data1", UP)


def test_a_first_start_runs_the_entries_without_errors(site: Site) -> None:
    bad = {**agent("bad"), "nice": 99}
    site.write([agent("good"), bad, {**agent("waits"), "depends-on": ["bad"]}])
    daemon = site.start()
    daemon.wait_for("good", UP)
    broken = daemon.instance("bad")
    assert broken.next_action == pb.NEXT_ACTION_UNKNOWN
    assert "its entry in the site config has an error" in broken.message
    assert f"{site.file}:" in broken.message
    assert "bad to be up (it is not operable)" in daemon.instance("waits").message
    assert not daemon.stub.GetStatus(pb.GetStatusRequest()).manager.config_parse_status["[SCF]"].success
    [event] = [each for each in daemon.events() if each.reason == "ConfigPartial"]
    assert event.message.endswith("runs without these entries: bad")

    with pytest.raises(grpc.RpcError) as failure:
        daemon.reload()  # a reload with errors changes nothing
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    pid = daemon.instance("good").process.pid
    site.write([agent("good"), agent("bad"), {**agent("waits"), "depends-on": ["bad"]}])
    daemon.reload()
    daemon.wait_for("waits", UP)
    assert daemon.instance("bad").next_action == UP
    assert daemon.instance("good").process.pid == pid


def test_an_agent_without_a_command_is_not_operable_and_gives_the_reason(site: Site) -> None:
    site.write([{"instance-id": "thermo1", "agent-class": "Lakeshore240"}])
    daemon = site.start()
    instance = daemon.wait_for("thermo1", pb.NEXT_ACTION_UNKNOWN)
    assert not instance.operable
    assert "Lakeshore240" in instance.message


def test_initial_state_overrides_the_config(site: Site) -> None:
    site.write([agent("data1"), agent("data2")])
    daemon = site.start("--initial-state", "down")
    daemon.wait_for_all(DOWN)
    assert site.processes() == []


def test_dependencies_start_in_order_and_stop_in_reverse(site: Site) -> None:
    site.write([agent("top", **{"depends-on": ["base"]}), agent("base")])
    daemon = site.start()
    daemon.wait_for_all(UP)
    daemon.stub.StopManager(pb.StopManagerRequest(), timeout=20)
    order = [
        (e.instance_id, e.kind) for e in daemon.events() if e.kind in (pb.EVENT_KIND_UP, pb.EVENT_KIND_DOWN)
    ]
    up, down = pb.EVENT_KIND_UP, pb.EVENT_KIND_DOWN
    assert order == [("base", up), ("top", up), ("top", down), ("base", down)]


# --- logs


def test_logs_are_followed_as_they_are_written(site: Site) -> None:
    gate = site.folder / "go"
    os.mkfifo(gate)
    script = f"echo one; echo two >&2; read line < {gate}; echo three; exec sleep 100000"
    site.write([agent("data1", ["sh", "-c", script])])
    daemon = site.start()
    daemon.wait_for("data1", UP)
    log = Path(daemon.instance("data1").process.log_file)
    wait_until(lambda: log.read_bytes().count(b"\n") == 2, "two lines")
    request = pb.TailLogsRequest(instance_id="data1", lines=1, follow=True)
    stream = daemon.stub.TailLogs(request, timeout=30)
    lines: list[str] = []
    for message in stream:
        lines.extend(line.text for line in message.lines)
        if message.caught_up:  # comes once, after the lines of before
            assert lines == ["two"]
            gate.write_text("go\n")
        if "three" in lines:
            break
    stream.cancel()
    assert lines == ["two", "three"]


# --- must show 5: many, and idle


def test_a_thousand_instances_come_up_idle_reload_and_go_down(site: Site) -> None:
    count = 1000
    site.write([agent(f"i{n:04}") for n in range(count)])
    daemon = site.start("--quiet")
    daemon.wait_for_all(UP, timeout=90)
    assert len(daemon.instances()) == count

    def switches() -> str:
        status = (daemon.thread("supervisor") / "status").read_text()
        return "".join(line for line in status.splitlines() if "ctxt_switches" in line)

    # During ten heartbeats to a watcher, which the event loop sends, the supervisor thread never wakes.
    request = pb.WatchStatusRequest(instance_ids=["none"])
    request.heartbeat_interval.FromSeconds(1)
    stream = daemon.stub.WatchStatus(request)
    messages = iter(stream)
    next(messages)
    before = switches()
    for _ in range(10):
        assert next(messages).WhichOneof("update") == "heartbeat"
    assert switches() == before
    stream.cancel()

    site.write([agent(f"i{n:04}") for n in range(count - 1)])
    daemon.reload()
    wait_until(lambda: len(daemon.instances()) == count - 1, "the end of the retired instance")
    daemon.stub.StopManager(pb.StopManagerRequest(), timeout=90)
    assert site.processes() == []
