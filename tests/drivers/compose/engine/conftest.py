"""Fixtures for the tests of the engine watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.watch import EngineWatch

from tests.docker_engine import RealEngine
from tests.drivers.compose.engine.watch_harness import (
    PROJECT,
    RecordingListener,
    ServiceContainer,
    StartWatch,
    threads,
)


@pytest.fixture
def start_watch() -> Iterator[StartWatch]:
    """Return a starter of watches of PROJECT, or of other projects; close them at the end.

    Also check that no thread is left.
    """
    with ExitStack() as started:

        def start(
            host: str, *projects: str, ping_after: float = 10.0, answer_within: float = 5.0
        ) -> tuple[EngineWatch, RecordingListener]:
            listener = RecordingListener()
            watch = EngineWatch(
                lambda: Connection(host),
                listener,
                lambda callback: callback(),
                ping_after=ping_after,
                answer_within=answer_within,
            )
            started.callback(watch.close)
            watch.watch_projects(frozenset(projects or {PROJECT}))
            watch.start()
            return watch, listener

        yield start
    assert not threads()


@pytest.fixture
def new_service(engine: RealEngine, image: str) -> Iterator[Callable[..., ServiceContainer]]:
    made: list[ServiceContainer] = []

    def make(*options: str, command: Sequence[str] = (), project: str = PROJECT) -> ServiceContainer:
        made.append(ServiceContainer(engine, image, *options, command=command, project=project))
        return made[-1]

    yield make
    for service in made:
        service.remove()
