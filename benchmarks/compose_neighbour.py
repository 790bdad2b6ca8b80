"""A test suite of another compose project on the same engine, as the load beside idle services."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import docker

from tests.docker_engine import RealEngine, unique_name

STANDING = 10  # containers with a health check every second
_WORKERS = 4  # tests that run at once
_PAUSE = 0.1  # s between two containers of a test
_SECOND = 1_000_000_000  # in ns, as in the engine's API


class Neighbour:
    """Containers of another project: some with health checks, others come and go.

    Now and then an image is tagged and removed.
    """

    def __init__(self, engine: RealEngine) -> None:
        self._counts = [0] * _WORKERS
        self._engine = engine
        self._project = unique_name("hmbench-other")
        self._image = f"{self._project}:image"
        self._api = docker.APIClient(base_url=engine.host, version="auto", timeout=60, num_pools=_WORKERS)
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name="neighbour") for number in range(_WORKERS)
        ]

    @property
    def containers(self) -> int:
        """The number of containers that came and went."""
        return sum(self._counts)

    def _create(self, *, health: bool) -> str:
        healthcheck = {"test": ["CMD", "true"], "interval": _SECOND} if health else None
        container: dict[str, str] = self._api.create_container(
            self._image,
            labels={
                "com.docker.compose.project": self._project,
                "com.docker.compose.service": "test",
                "com.docker.compose.oneoff": "False",
            },
            healthcheck=healthcheck,
            host_config=self._api.create_host_config(network_mode="none"),
        )
        self._api.start(container["Id"])
        return container["Id"]

    def _run(self, worker: int) -> None:
        while not self._ended.wait(_PAUSE):
            container = self._create(health=False)
            self._api.kill(container)
            self._api.remove_container(container, force=True)
            self._counts[worker] += 1
            if self._counts[worker] % 10 == 0:
                self._api.tag(self._image, self._project, f"{worker}")
                self._api.remove_image(f"{self._project}:{worker}", noprune=True)

    def __enter__(self) -> Self:
        self._engine.import_image(self._image)
        for _ in range(STANDING):
            self._create(health=True)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._api.close()
        self._engine.remove_project(self._project)
