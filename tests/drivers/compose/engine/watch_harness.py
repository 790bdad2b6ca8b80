"""Listener and service containers for the tests of the engine watch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.watch import EngineWatch

from tests.docker_engine import DEADLINE, RealEngine, unique_name

PROJECT = unique_name()  # of the containers of this process, unless a test names another project


class RecordingListener:
    """A listener that records all notifications in order, and can wait for them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self._more = threading.Condition()

    def synced(
        self, projects: frozenset[str], containers: Sequence[Container], images: Mapping[str, str]
    ) -> None:
        self._add("synced", (tuple(containers), dict(images), projects))

    def container_changed(self, container: Container) -> None:
        self._add("changed", container)

    def container_removed(self, container_id: str) -> None:
        self._add("gone", container_id)

    def images_changed(self, ids: Mapping[str, str]) -> None:
        self._add("images", dict(ids))

    def engine_lost(self, why: str) -> None:
        self._add("lost", why)

    def refreshed(self) -> None:
        self._add("refreshed", None)

    def _add(self, name: str, what: object) -> None:
        with self._more:
            self.calls.append((name, what))
            self._more.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._more:
            assert self._more.wait_for(condition, DEADLINE), f"not listener within {DEADLINE} s: {self.calls}"

    def loss_reasons(self) -> list[str]:
        """Return the reason of each loss of the engine."""
        return [str(why) for name, why in self.calls if name == "lost"]

    def wait_for_call(self, name: str, times: int = 1) -> None:
        self.wait_for(lambda: sum(called == name for called, _ in self.calls) >= times)

    def wait_for_image(self, tag: str, image: str) -> None:
        self.wait_for(lambda: self.image_ids().get(tag) == image)

    def listed(self) -> dict[str, Container]:
        """Return the containers of the latest `synced`, by id."""
        found = [what for name, what in self.calls if name == "synced"][-1]
        assert isinstance(found, tuple)
        return {container.id: container for container in found[0]}

    def listed_projects(self) -> object:
        """Return the projects of the latest `synced`."""
        found = [what for name, what in self.calls if name == "synced"][-1]
        assert isinstance(found, tuple)
        return found[2]

    def image_ids(self) -> dict[str, str]:
        """Return the image ids of the latest notification."""
        ids: dict[str, str] = {}
        for name, what in self.calls:
            if name == "images" and isinstance(what, dict):
                ids = what
            elif name == "synced" and isinstance(what, tuple):
                ids = what[1]
        return ids

    def changes_of(self, container_id: str) -> list[Container]:
        """Return the `container_changed` notifications of one container."""
        changes = [what for name, what in self.calls if name == "changed"]
        return [what for what in changes if isinstance(what, Container) and what.id == container_id]

    def wait_for_transitions(self, container_id: str, *transitions: tuple[bool, int]) -> list[Container]:
        """Wait for exactly these transitions, each a running flag and an exit code."""

        def changes_of() -> list[tuple[bool, int]]:
            found: list[tuple[bool, int]] = []
            for one in self.changes_of(container_id):
                if one.status not in ("created", "removing") and [(one.running, one.exit_code)] != found[-1:]:
                    found.append((one.running, one.exit_code))
            return found

        self.wait_for(lambda: changes_of() == list(transitions))
        return self.changes_of(container_id)


class StartWatch(Protocol):
    def __call__(
        self, host: str, *projects: str, ping_after: float = ..., answer_within: float = ...
    ) -> tuple[EngineWatch, RecordingListener]: ...


def threads() -> list[str]:
    """Return the names of live threads of engine watches."""
    return [thread.name for thread in threading.enumerate() if thread.name in ("hm-engine", "hm-events")]


def catches_term(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("\nSigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


class ServiceContainer:
    """A container with the labels of a compose service, made by `docker create`."""

    def __init__(
        self,
        engine: RealEngine,
        image: str,
        *options: str,
        command: Sequence[str] = (),
        project: str = PROJECT,
    ) -> None:
        self.project = project
        labels = (f"com.docker.compose.project={self.project}", "com.docker.compose.service=agent")
        arguments = [argument for label in labels for argument in ("--label", label)]
        arguments += ["--network", "none", *options, image, *command]
        self._engine = engine
        self.id = engine.docker("create", *arguments)

    def docker(self, *arguments: str) -> None:
        self._engine.docker(*arguments, self.id)

    def kill_process(self) -> None:
        """Kill the main process without the engine's help."""
        os.kill(int(self._engine.docker("inspect", "--format", "{{.State.Pid}}", self.id)), signal.SIGKILL)

    def remove(self) -> None:
        for found in self._engine.containers_of(self.project):
            self._engine.docker("rm", "--force", found)
