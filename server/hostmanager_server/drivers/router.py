"""The driver that routes each run to the driver of its kind of workload."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager_server.core.events import Adopted, RunKey
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.drivers.contract import Done, Driver, ServiceDriver


class DriverRouter:
    """A driver of native processes and compose services; see `Driver`."""

    def __init__(self, processes: Driver, services: ServiceDriver) -> None:
        self._processes = processes
        self._services = services

    def follow(self, spec: InstanceSpec) -> None:
        """See `Driver.follow`.

        Both drivers follow the instance, because a config change can turn one kind of workload into the
        other.
        """
        self._processes.follow(spec)
        self._services.follow(spec)

    def forget(self, spec: InstanceSpec) -> None:
        """See `Driver.forget`."""
        self._processes.forget(spec)
        self._services.forget(spec)

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        """See `Driver.launch`."""
        driver = self._services if spec.service is not None else self._processes
        driver.launch(run, spec)

    def stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        """See `Driver.stop`. The driver that does not own the run ignores the call."""
        self._processes.stop(run, signum, whole_tree=whole_tree)
        self._services.stop(run, signum, whole_tree=whole_tree)

    def signal(self, run: RunKey, signum: int, *, whole_tree: bool, done: Done) -> None:
        """See `Driver.signal`."""
        driver = self._services if self._services.owns(run) else self._processes
        driver.signal(run, signum, whole_tree=whole_tree, done=done)

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        """See `Driver.adopt`."""
        return [*self._processes.adopt(specs), *self._services.adopt(specs)]

    def disown(self) -> None:
        """See `Driver.disown`."""
        self._processes.disown()
        self._services.disown()

    def close(self) -> None:
        """See `Driver.close`."""
        self._processes.close()
        self._services.close()
