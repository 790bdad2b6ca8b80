"""Tests of the engine watch on a real Docker Engine: containers and images."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.drivers.compose.engine.container import Container

from tests.docker_engine import RealEngine, unique_name
from tests.drivers.compose.engine.watch_harness import (
    ServiceContainer,
    StartWatch,
    catches_term,
)

# --- containers


def test_the_first_notification_lists_all_service_containers(
    start_watch: StartWatch, engine: RealEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    running, created, oneoff = (
        new_service("--tty"),
        new_service(),
        new_service("--label=com.docker.compose.oneoff=True"),
    )
    running.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    found = listener.listed()
    assert (found[running.id].running, found[running.id].project) == (True, running.project)
    assert Path(f"/proc/{found[running.id].pid}").exists()
    assert found[running.id].tty
    assert (found[created.id].running, found[created.id].status) == (False, "created")
    assert oneoff.id not in found


def test_creation_start_stop_and_removal_are_notified(
    start_watch: StartWatch, engine: RealEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service = new_service()
    listener.wait_for(lambda: [one.status for one in listener.changes_of(service.id)] == ["created"])
    service.docker("start")
    started = listener.wait_for_transitions(service.id, (True, 0))[-1]
    assert started.started is not None
    while not catches_term(started.pid):  # without a handler, SIGTERM does not end PID 1
        time.sleep(0.01)
    service.docker("stop")
    ended = listener.wait_for_transitions(service.id, (True, 0), (False, 0))[-1]
    assert (ended.pid, ended.status, ended.started) == (0, "exited", started.started)
    assert ended.finished is not None
    assert ended.finished > started.started
    service.docker("rm")
    listener.wait_for(lambda: ("gone", service.id) in listener.calls)


def test_a_killed_container_has_exit_code_137(
    start_watch: StartWatch, engine: RealEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    service = new_service()
    service.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service.docker("kill")
    listener.wait_for_transitions(service.id, (False, 137))


def test_a_very_short_run_has_a_start_and_an_end(
    start_watch: StartWatch, engine: RealEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service = new_service(command=["sh", "-c", "exit 7"])
    service.docker("start")
    listener.wait_for_transitions(service.id, (True, 0), (False, 7))


def test_a_restart_by_the_engine_is_an_end_and_a_start(
    start_watch: StartWatch, engine: RealEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    service = new_service("--restart=always")
    service.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    before = listener.listed()[service.id]
    service.kill_process()
    changes_of = listener.wait_for_transitions(service.id, (False, 137), (True, 0))
    assert changes_of[-1].pid != before.pid
    assert changes_of[-1].started != before.started


def test_pause_rename_and_health_are_notified(
    start_watch: StartWatch, engine: RealEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    service = new_service("--health-cmd=true", "--health-interval=1s")
    service.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")

    def latest() -> Container:
        return [listener.listed()[service.id], *listener.changes_of(service.id)][-1]

    listener.wait_for(lambda: latest().health == "healthy")
    service.docker("pause")
    listener.wait_for(lambda: latest().status == "paused")
    assert latest().running
    service.docker("unpause")
    listener.wait_for(lambda: latest().status == "running")
    name = unique_name()
    engine.docker("rename", service.id, name)
    listener.wait_for(lambda: latest().name == name)


def test_a_refresh_calls_back_after_all_notifications(
    start_watch: StartWatch, engine: RealEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service = new_service()
    service.docker("start")
    watch.refresh(service.project, listener.refreshed)
    listener.wait_for_call("refreshed")
    calls_before = listener.calls[: listener.calls.index(("refreshed", None))]
    # Other tests start and end containers in the same engine.
    changes_of = [what for _, what in calls_before if isinstance(what, Container) and what.id == service.id]
    assert changes_of[-1].running


# --- images


def test_every_change_of_a_watched_tag_is_notified(
    start_watch: StartWatch, engine: RealEngine, image: str
) -> None:
    tag, other = f"{unique_name()}:1", f"{unique_name()}:1"
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    watch.watch_images(frozenset({tag, "no image can be called THIS"}))
    listener.wait_for_image(tag, UNKNOWN_IMAGE)
    assert listener.image_ids()["no image can be called THIS"] == UNKNOWN_IMAGE
    first = engine.import_image(tag)
    listener.wait_for_image(tag, first)
    second = engine.import_image(other)
    engine.docker("tag", other, tag)
    listener.wait_for_image(tag, second)
    engine.docker("rmi", tag)
    listener.wait_for_image(tag, UNKNOWN_IMAGE)
