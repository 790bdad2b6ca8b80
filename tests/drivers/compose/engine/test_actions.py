"""Tests of starts, removals and fetches through a real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.container_actions import EngineActions

from tests.docker_engine import RealEngine, unique_name

NO_IMAGE = "127.0.0.1:9/no-such:1"  # no registry listens there


class ActionsHarness:
    """Actions, with their outcomes in order."""

    def __init__(self, engine: RealEngine) -> None:
        self._engine = engine
        self._soon: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ends: list[tuple[str, bool]] = []
        self.actions = EngineActions(self._connect, self._soon.put)

    def _connect(self) -> Connection:
        connection = Connection(self._engine.host)
        connection.negotiate(10.0)
        return connection

    def done(self, error: str, refused: bool) -> None:  # noqa: FBT001 -- called by EngineActions, by position
        self._ends.append((error, refused))

    def outcome(self) -> tuple[str, bool]:
        """Wait for the end of the next action."""
        self._soon.get(timeout=60.0)()
        return self._ends.pop()


@pytest.fixture
def harness(engine: RealEngine) -> Iterator[ActionsHarness]:
    harness = ActionsHarness(engine)
    yield harness
    harness.actions.close()


def test_a_container_is_started_once_and_removed_once(
    harness: ActionsHarness, engine: RealEngine, image: str
) -> None:
    container = engine.docker("create", "--network", "none", "--name", unique_name(), image)
    try:
        for _ in range(2):  # the second start finds a running container
            harness.actions.start(container, harness.done, repeated=False)
            assert harness.outcome() == ("", False)
        harness.actions.remove(container, harness.done)
        error, refused = harness.outcome()
        assert (refused, "running" in error) == (True, True)
    finally:
        engine.docker("rm", "--force", container)
    harness.actions.remove(container, harness.done)
    assert harness.outcome() == ("", False)  # another client has removed the container
    harness.actions.start(container, harness.done, repeated=False)
    error, refused = harness.outcome()
    assert (refused, "No such container" in error) == (True, True)


def test_an_image_is_fetched_unless_the_engine_has_it(harness: ActionsHarness, image: str) -> None:
    harness.actions.fetch(image, "", harness.done)
    assert harness.outcome() == ("", False)
    harness.actions.fetch(NO_IMAGE, "", harness.done)
    error, refused = harness.outcome()
    assert (refused, "127.0.0.1:9" in error) == (True, True)
