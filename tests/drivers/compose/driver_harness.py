"""Harness of the compose driver on an engine in memory."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.events import (
    DriverEvent,
    RunKey,
    ServiceObserved,
)
from hostmanager_server.core.spec import InstanceSpec, Management, ServiceSpec
from hostmanager_server.drivers.compose.driver import ComposeDriver

from tests.drivers.compose.fake_compose import (
    FakeActions,
    FakeCompose,
    FakeComposeEngine,
    FakeReader,
    service,
)
from tests.fakes.driver import FakePoller


class DriverHarness:
    """A driver with its followed services, events, surveys and compose calls."""

    def __init__(self, *services: ServiceSpec, present: bool = True) -> None:
        self.poller = FakePoller()
        self.engine = FakeComposeEngine(self.poller, present=present)
        self.reader = FakeReader(*services)
        self.compose = FakeCompose(self.engine, self.reader)
        self.actions = FakeActions(self.engine, self.poller)
        self.events: list[DriverEvent] = []
        self.surveys: list[Survey] = []
        self.driver = ComposeDriver(
            self.poller, self.events.append, self._forbid_threads, self, self.reader, self.engine.make_watch,
            self.compose, self.actions,
        )  # fmt: skip
        self._runs: dict[str, int] = {}
        self.driver.manage(self.driver.load())
        for each in services:
            self.follow(each)
        self.settle()
        if present:
            self.events.clear()

    def _forbid_threads(self, callback: object) -> None:
        raise AssertionError("nothing here is on a thread of its own")

    def surveyed(self, survey: Survey) -> None:
        self.surveys.append(survey)

    def files_changed(self) -> None:
        raise AssertionError("no file is watched here")

    def spec(self, wanted: ServiceSpec) -> InstanceSpec:
        return InstanceSpec(wanted.service, UNCLAIMED, Management.DOCKER, service=wanted)

    def follow(self, wanted: ServiceSpec) -> None:
        self.driver.follow(self.spec(wanted))

    def launch(self, *names: str) -> None:
        for name in names:
            self._runs[name] = self._runs.get(name, 0) + 1
            self.driver.launch(self.run_of(name), self.spec(self.reader.services[name]))

    def launch_missing(self, name: str) -> None:
        self.driver.launch(self.run_of(name), self.spec(self.reader.services[name]))

    def stop(self, *names: str) -> None:
        for name in names:
            self.driver.stop(self.run_of(name), signal.SIGKILL, whole_tree=True)

    def run_of(self, name: str) -> RunKey:
        return RunKey(name, self._runs[name])

    def settle(self) -> None:
        """Advance the clock until the driver has processed all notifications.

        The driver may then have begun its next call of compose.
        """
        self.poller.advance(1.0)

    def finish(self) -> None:
        self.settle()
        self.compose.finish()
        self.settle()

    def finish_all(self) -> None:
        self.settle()
        while self.compose.current_call is not None:
            self.finish()

    def up(self, *names: str) -> None:
        """Start these services, and forget the events and calls of the start."""
        self.launch(*names)
        self.finish_all()
        self.events.clear()
        self.compose.log.clear()
        self.actions.log.clear()

    def event_kinds(self, name: str) -> list[str]:
        """Return the class names of an instance's events, without ServiceObserved."""
        mine = [e for e in self.events if e.instance_id == name and not isinstance(e, ServiceObserved)]
        return [type(event).__name__ for event in mine]

    def event(self, name: str, kind: type[DriverEvent]) -> DriverEvent:
        """Return the only event of this kind of the instance."""
        (only,) = [e for e in self.events if e.instance_id == name and isinstance(e, kind)]
        return only


def services(names: Sequence[str]) -> list[ServiceSpec]:
    return [service(name) for name in names]
