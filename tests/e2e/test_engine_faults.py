"""End-to-end tests of a Docker Engine that is killed, frozen or restarted."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.docker_engine import MakeProject, RealEngine
from tests.e2e.daemon import PATIENCE, Daemon, Site
from tests.e2e.lab import DOWN, UNKNOWN, UP, Lab, all_up, entry, is_gone, is_up, status, wait_for
from tests.e2e.test_supervision import agent
from tests.private_engine import PrivateEngine, StartEngine, private_engines
from tests.waiting import wait_until

pytestmark = pytest.mark.xdist_group("private-engine")  # one private engine, started by one worker

IMAGE = "base:1"
ANSWER_TIMEOUT = 5.0  # s for an RPC while the engine is away; an idle machine takes 2 ms


@pytest.fixture(scope="module")
def start_engine(engine: RealEngine) -> Iterator[StartEngine]:
    with private_engines() as start:
        yield start


@pytest.fixture(scope="module")
def restoring_engine(start_engine: StartEngine) -> PrivateEngine:
    """Start an engine with --live-restore: its containers outlive the engine."""
    private = start_engine("--live-restore")
    private.engine.import_image(IMAGE)
    return private


@pytest.fixture(scope="module")
def plain_engine(start_engine: StartEngine) -> PrivateEngine:
    """Start an engine without --live-restore: its containers end with the engine."""
    private = start_engine()
    private.engine.import_image(IMAGE)
    return private


def _lab(site: Site, private: PrivateEngine, make: MakeProject) -> Iterator[Lab]:
    lab = Lab(site, private.engine, IMAGE, functools.partial(make, on=private.engine))
    yield lab
    site.kill_daemons()
    private.engine.remove_project(lab.project.name)


@pytest.fixture
def restoring_lab(site: Site, restoring_engine: PrivateEngine, compose_project: MakeProject) -> Iterator[Lab]:
    yield from _lab(site, restoring_engine, compose_project)


@pytest.fixture
def plain_lab(site: Site, plain_engine: PrivateEngine, compose_project: MakeProject) -> Iterator[Lab]:
    yield from _lab(site, plain_engine, compose_project)


class StatusPoller:
    """A thread that polls a daemon's status and keeps the longest wait for an answer."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.longest_wait = 0.0
        self.answers = 0

    def _run(self) -> None:
        while not self._end.wait(0.02):
            begun = time.monotonic()
            self._daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE)
            self.longest_wait = max(self.longest_wait, time.monotonic() - begun)
            self.answers += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def test_no_container_is_lost_or_started_twice_when_the_engine_is_killed_and_restarted(
    restoring_engine: PrivateEngine, restoring_lab: Lab
) -> None:
    lab = restoring_lab
    lab.write({"ocs-a": {}, "ocs-b": {}, "db": {}, "idle": {}})
    lab.site.write([entry("a"), entry("b"), agent("p")])
    daemon = lab.serve()
    daemon.update(db="up", idle="up")
    up = all_up(daemon, "a", "b", "db", "idle")
    process = daemon.wait_for("p", UP)
    before = {name: lab.life(name) for name in ("ocs-a", "ocs-b", "db", "idle")}
    calls = len(lab.calls("up"))

    with StatusPoller(daemon) as poller:
        restoring_engine.kill()
        b = wait_for(daemon, "b", lambda i: i.next_action == UNKNOWN)
        assert "Docker Engine" in b.message
        assert not status(daemon).config_parse_status[str(lab.project.file)].success
        for name in ("b", "db"):  # the engine sends no events for these ends
            os.kill(up[name].compose_service.pid, signal.SIGKILL)
        daemon.update(idle="down")
        assert daemon.instance("b").next_action == UNKNOWN
        assert len(lab.calls("up")) == calls
        restoring_engine.start()
        all_up(daemon, "a")
        b = wait_for(daemon, "b", lambda i: is_up(i) and i.restart_count == 1)
        db = wait_for(daemon, "db", lambda i: i.next_action == DOWN)
        wait_for(daemon, "idle", is_gone)
    assert poller.answers
    assert poller.longest_wait < ANSWER_TIMEOUT
    # Engine 20.10 returns with the signal, 28.5 with 255 for "not known".
    assert b.last_exit.code == db.last_exit.code == db.compose_service.exit_code
    assert db.compose_service.exit_code in (137, 255)
    assert lab.life("ocs-a") == before["ocs-a"]
    assert daemon.instance("a").restart_count == 0
    assert len(lab.ids("ocs-b")) == 1
    assert len(lab.calls("up")) == calls, "the engine starts the container again, without compose"
    assert daemon.instance("p").process.pid == process.process.pid
    assert daemon.instance("p").restart_count == 0
    assert status(daemon).config_parse_status[str(lab.project.file)].success
    assert is_up(daemon.instance("b"))


def test_a_quick_live_restore_restart_of_the_engine_is_not_noticed(
    restoring_engine: PrivateEngine, restoring_lab: Lab
) -> None:
    lab = restoring_lab
    lab.write({"ocs-a": {}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    all_up(daemon, "a")
    before = lab.life("ocs-a")
    restoring_engine.restart()
    lab.engine.docker("kill", before[0])
    wait_for(daemon, "a", lambda i: is_up(i) and i.restart_count == 1)
    assert len(lab.calls("up")) == 1, "the engine starts the container again, without compose"
    assert [e.kind for e in daemon.events("a")].count(pb.EVENT_KIND_EXIT) == 1


def test_containers_that_end_with_their_engine_are_started_once_when_it_is_back(
    plain_engine: PrivateEngine, plain_lab: Lab
) -> None:
    lab = plain_lab
    names = ["a", "b", "c"]
    lab.write({f"ocs-{name}": {} for name in names} | {"db": {}})
    lab.site.write([*(entry(name) for name in names), agent("p")])
    daemon = lab.serve()
    daemon.update(db="up")
    all_up(daemon, *names, "db")
    process = daemon.wait_for("p", UP).process.pid
    with StatusPoller(daemon) as poller:
        plain_engine.restart()
        for name in names:
            wait_for(daemon, name, lambda i: is_up(i) and i.last_exit.HasField("code"))
        db = wait_for(daemon, "db", lambda i: i.next_action == DOWN)
    assert poller.longest_wait < ANSWER_TIMEOUT
    assert db.last_exit.code == 0
    for name in names:
        assert len(lab.ids(f"ocs-{name}")) == 1
        assert [e.kind for e in daemon.events(name)].count(pb.EVENT_KIND_UP) == 2
    assert daemon.instance("p").process.pid == process


def test_an_engine_killed_during_a_start_leaves_one_container_per_service(
    plain_engine: PrivateEngine, plain_lab: Lab
) -> None:
    lab = plain_lab
    names = [f"s{number}" for number in range(4)]
    lab.write({f"ocs-{name}": {} for name in names})
    lab.site.write([entry(name) for name in names])
    daemon = lab.serve()
    wait_until(lambda: lab.ids("ocs-s0"), "the first container")
    with StatusPoller(daemon) as poller:
        plain_engine.kill()
        plain_engine.start()
        all_up(daemon, *names)
    assert poller.longest_wait < ANSWER_TIMEOUT
    for name in names:
        wait_for(daemon, name, lambda i: is_up(i) and i.compose_service.running_replicas == 1)
        assert len(lab.ids(f"ocs-{name}")) == 1


def test_remains_of_a_killed_engine_block_only_one_start(plain_engine: PrivateEngine, plain_lab: Lab) -> None:
    # A dockerd killed during a start sometimes leaves these remains; here they are certain.
    lab = plain_lab
    lab.write({"ocs-a": {"depends_on": ["db"]}, "ocs-b": {}, "db": {}})
    lab.project.compose("up", "--no-start")
    (b,) = lab.ids("ocs-b")
    stuck = [*lab.ids("ocs-a"), *lab.ids("db")]
    for container in stuck:
        plain_engine.leave_behind(container)
    lab.site.write([entry("a"), entry("b")])
    daemon = lab.serve()
    all_up(daemon, "a", "b", "db")
    assert lab.life("ocs-b")[0] == b
    assert {lab.life("ocs-a")[0], lab.life("db")[0]}.isdisjoint(stuck)
    assert any("file exists" in e.message for e in daemon.events("a"))


@pytest.fixture
def other_daemon(plain_lab: Lab) -> Iterator[Daemon]:
    """Start the daemon of another host, on the same engine."""
    folder = plain_lab.site.folder / "other_daemon"
    folder.mkdir()
    site = Site(folder)
    site.environ = plain_lab.site.environ
    project = plain_lab.new_project({"ocs-z": {}})
    site.write([entry("z"), agent("p")])
    daemon = site.start("--docker-compose", str(project.file))
    all_up(daemon, "z")
    daemon.wait_for("p", UP)
    yield daemon
    site.kill_daemons()
    plain_lab.engine.remove_project(project.name)


def test_a_frozen_engine_is_reported_and_blocks_no_process(
    plain_engine: PrivateEngine, plain_lab: Lab, other_daemon: Daemon
) -> None:
    # The longest_wait of these tests: an engine is given 15 s to answer before it is held to be frozen.
    lab = plain_lab
    lab.write({"ocs-a": {}, "ocs-b": {}, "ocs-c": {}})
    lab.site.write([entry("a"), entry("b"), entry("c"), agent("p"), agent("q", manage="down")])
    daemon = lab.serve()
    up = all_up(daemon, "a", "b", "c")
    process = daemon.wait_for("p", UP).process.pid
    before = lab.life("ocs-a")
    plain_engine.freeze()
    try:
        other_daemon.process.send_signal(signal.SIGTERM)
        with StatusPoller(daemon) as poller:
            os.kill(up["b"].compose_service.pid, signal.SIGKILL)
            daemon.update(c="down", q="up")  # compose waits for the engine
            daemon.wait_for("q", UP)
            os.kill(process, signal.SIGKILL)
            wait_until(lambda: daemon.instance("p").restart_count == 1, "the host agent to be restarted")
            for name in "abc":
                instance = wait_for(daemon, name, lambda i: i.next_action == UNKNOWN)
                assert "not answer" in instance.message  # a ping, or another request, got no answer
            assert other_daemon.process.wait(PATIENCE) == 0
            wait_until(lambda: not other_daemon.site.processes(), "its calls of compose to end")
            plain_engine.thaw()
            all_up(daemon, "a")
            b = wait_for(daemon, "b", lambda i: is_up(i) and i.restart_count == 1)
            wait_for(daemon, "c", is_gone)
    finally:
        plain_engine.thaw()
    assert poller.longest_wait < ANSWER_TIMEOUT
    assert b.last_exit.code == 137
    assert lab.life("ocs-a") == before
    assert daemon.instance("p").restart_count == 1


def test_a_daemon_ends_without_its_engine_and_the_successor_finds_the_services(
    restoring_engine: PrivateEngine, restoring_lab: Lab
) -> None:
    lab = restoring_lab
    lab.write({"ocs-a": {}, "ocs-b": {}})
    lab.site.write([entry("a"), entry("b"), agent("p")])
    first = lab.serve()
    up = all_up(first, "a", "b")
    before = lab.life("ocs-a")
    restoring_engine.kill()
    try:
        wait_for(first, "a", lambda i: i.next_action == UNKNOWN)
        assert first.end() == 0
        assert not lab.site.processes()
        os.kill(up["b"].compose_service.pid, signal.SIGKILL)
        second = lab.serve()  # without an engine
        second.wait_for("p", UP)
        wait_for(second, "a", lambda i: i.next_action == UNKNOWN)
    finally:
        restoring_engine.start()
    all_up(second, "a", "b")
    assert lab.life("ocs-a") == before
    assert len(lab.ids("ocs-b")) == 1
