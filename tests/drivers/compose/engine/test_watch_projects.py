"""Tests of the engine watch beside other projects, on a real Docker Engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.drivers.compose.engine import event_streams
from hostmanager_server.drivers.compose.engine.connection import Connection

from tests.docker_engine import RealEngine, unique_name
from tests.drivers.compose.engine.watch_harness import PROJECT, ServiceContainer, StartWatch

NewService = Callable[..., ServiceContainer]


@pytest.fixture(params=["a stream per project", "one stream"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watch follow its projects in both ways."""
    if request.param == "one stream":
        monkeypatch.setattr(event_streams, "MAX_PROJECT_STREAMS", 0)


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the ids of inspected containers."""
    found: list[str] = []
    inspect = Connection.inspect

    def recording(connection: Connection, container_id: str, within: float) -> object:
        found.append(container_id)
        return inspect(connection, container_id, within)

    monkeypatch.setattr(Connection, "inspect", recording)
    return found


def live_and_die(service: ServiceContainer) -> None:
    for verb in ("start", "kill", "rm"):
        service.docker(verb)


@pytest.mark.usefixtures("streams")
def test_containers_of_other_projects_are_not_inspected(
    start_watch: StartWatch,
    engine: RealEngine,
    image: str,
    new_service: NewService,
    inspected: list[str],
) -> None:
    other = unique_name()
    new_service(project=other).docker("start")
    listed = new_service()
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    live_and_die(new_service(project=other))
    live_and_die(new_service("--label=com.docker.compose.oneoff=True"))
    engine.docker("run", "--rm", "--network", "none", image, "true")
    ours = new_service()
    live_and_die(ours)
    listener.wait_for(lambda: ("gone", ours.id) in listener.calls)
    assert set(inspected) <= {listed.id, ours.id}
    assert set(listener.listed()) == {listed.id}


@pytest.mark.usefixtures("streams")
def test_projects_can_be_added_and_dropped(
    start_watch: StartWatch, engine: RealEngine, new_service: NewService, inspected: list[str]
) -> None:
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    kept, other = new_service(), unique_name()
    running = new_service(project=other)
    running.docker("start")
    listener.wait_for(lambda: bool(listener.changes_of(kept.id)))

    watch.watch_projects(frozenset({PROJECT, other}))
    listener.wait_for_call("synced", times=2)
    assert listener.listed_projects() == {PROJECT, other}
    assert listener.listed()[running.id].running
    assert kept.id in listener.listed()
    running.docker("kill")
    listener.wait_for_transitions(running.id, (False, 137))

    watch.watch_projects(frozenset({PROJECT}))
    listener.wait_for_call("synced", times=3)
    assert set(listener.listed()) == {kept.id}
    inspected.clear()
    running.docker("start")
    kept.docker("start")
    listener.wait_for_transitions(kept.id, (True, 0))
    assert set(inspected) == {kept.id}


def test_a_container_that_changes_during_a_change_of_projects_is_followed(
    start_watch: StartWatch, engine: RealEngine, new_service: NewService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "MAX_PROJECT_STREAMS", 1)
    service = new_service()
    service.docker("start")
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    # The watch goes over to one stream for all projects, and back.
    watch.watch_projects(frozenset({PROJECT, unique_name()}))
    service.docker("kill")
    watch.watch_projects(frozenset({PROJECT}))
    service.docker("start")
    listener.wait_for_transitions(service.id, (False, 137), (True, 0))


def test_images_of_others_cost_no_inspection(
    start_watch: StartWatch, engine: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    inspect_image = Connection.inspect_image

    def recording(connection: Connection, tag: str) -> object:
        asked.append(tag)
        return inspect_image(connection, tag)  # type: ignore[no-untyped-call]  # its stub has no types

    monkeypatch.setattr(Connection, "inspect_image", recording)
    tag = f"{unique_name()}:1"
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    watch.watch_images(frozenset({tag}))
    listener.wait_for_image(tag, UNKNOWN_IMAGE)
    asked.clear()
    for _ in range(3):
        engine.docker("rmi", engine.import_image(f"{unique_name()}:1"))
    listener.wait_for_image(tag, engine.import_image(tag))
    assert len(asked) <= 2  # an import of the tag is two events
