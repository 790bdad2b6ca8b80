"""A harness for the compose driver on a real engine, for the contract suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hostmanager_server.core.compose import Survey
from hostmanager_server.core.events import DriverEvent, ExitStatus, Ready, ServiceObserved, StartFailed
from hostmanager_server.core.spec import InstanceSpec, Management, ReadinessProbe
from hostmanager_server.drivers.compose.cli.process import PROGRESS_TIMEOUT, ComposeCalls
from hostmanager_server.drivers.compose.driver import ComposeDriver
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.container_actions import EngineActions
from hostmanager_server.drivers.compose.engine.watch import EngineListener, EngineWatch
from hostmanager_server.drivers.compose.files.catalog_reader import CatalogReader
from hostmanager_server.drivers.contract import CallSoon, Poller

from tests.docker_engine import ComposeProject
from tests.fakes.driver import Behaviour


class TurnLoop(Poller, Protocol):
    """A poller that a test turns."""

    def call_soon(self, callback: Callable[[], None]) -> None: ...
    def wait_for(self, condition: Callable[[], bool]) -> None: ...


class ComposeHarness:
    """The compose driver, with small shell scripts as services."""

    killed = ExitStatus(code=137)

    def __init__(
        self,
        poller: TurnLoop,
        project: ComposeProject,
        image: str,
        *,
        progress_timeout: float = PROGRESS_TIMEOUT,
    ) -> None:
        self._progress_timeout = progress_timeout
        self.project = project
        self.poller = poller
        self.events: list[DriverEvent] = []
        self._image = image
        self._services: dict[str, str] = {}
        self._settled: dict[str, int] = {}  # starts that have settled, by instance id
        self._reader = CatalogReader(
            [str(project.file)], prefix="", program="", working_dir=Path("/"),
            environ=project.engine.environment,
        )  # fmt: skip
        self.driver: ComposeDriver = self._new_driver()

    def _new_driver(self) -> ComposeDriver:
        return ComposeDriver(
            self.poller, self.events.append, self.poller.call_soon, self, self._reader, self._watch,
            ComposeCalls(
                self.poller.call_soon, self.project.engine.environment,
                progress_timeout=self._progress_timeout,
            ),
            EngineActions(self._connect, self.poller.call_soon),
        )  # fmt: skip

    def _connect(self) -> Connection:
        connection = Connection(self.project.engine.host)
        connection.negotiate(10.0)
        return connection

    def _watch(self, listener: EngineListener, call_soon: CallSoon) -> EngineWatch:
        return EngineWatch(lambda: Connection(self.project.engine.host), listener, call_soon)

    def surveyed(self, survey: Survey) -> None:
        """Ignore the survey."""

    def files_changed(self) -> None:
        """Ignore the change, because the test reloads the file itself."""

    def spec(
        self, instance_id: str, behaviour: Behaviour, ready: ReadinessProbe | None = None
    ) -> InstanceSpec:
        if behaviour.cannot_start:
            command = ["/nonexistent/agent"]
        elif behaviour.exits_after is None:
            command = ["sh", "-c", "trap 'exit 0' INT TERM; sleep 2147483647 & wait"]
        else:
            command = ["sh", "-c", f"sleep {behaviour.exits_after:g}; exit {behaviour.status.code}"]
        settings = {"image": self._image, "network_mode": "none", "command": command}
        self._services[instance_id] = f"  {instance_id}: {json.dumps(settings)}"
        self.project.write("\n".join(["services:", *self._services.values(), ""]))
        return self.follow(instance_id)

    def follow(self, instance_id: str) -> InstanceSpec:
        """Follow the instance of the compose file, and wait until the engine was inspected."""
        catalog = self._reader.load()
        assert not any(catalog.problems.values()), catalog.problems
        self.driver.manage(catalog)
        service = catalog.services[instance_id]
        spec = InstanceSpec(instance_id, "Test", Management.DOCKER, service=service)
        self.driver.follow(spec)
        self.wait_for(
            lambda: any(isinstance(e, ServiceObserved) and e.instance_id == instance_id for e in self.events)
        )
        return spec

    def settle(self, instance_id: str) -> None:
        def ends() -> int:
            mine = (e for e in self.events if e.instance_id == instance_id)
            return sum(isinstance(e, Ready | StartFailed) for e in mine)

        before = self._settled.get(instance_id, 0)
        self.wait_for(lambda: ends() > before)
        self._settled[instance_id] = ends()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        self.poller.wait_for(condition)

    def alive(self, instance_id: str) -> bool:
        api = self.project.engine.api
        ids = self.project.containers(instance_id)
        return any(api.inspect_container(container)["State"]["Running"] for container in ids)

    def crash(self, instance_id: str) -> None:
        self.project.engine.docker("kill", *self.project.containers(instance_id))

    def replace_driver(self) -> None:
        self.driver.disown()
        self.driver.close()
        self.events.clear()
        self.driver = self._new_driver()

    def close(self) -> None:
        self.driver.close()
