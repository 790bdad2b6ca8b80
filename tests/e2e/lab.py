"""A site with compose services on a real engine: what its daemon says of them, and what the engine does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from tests.docker_engine import ComposeProject, DockerEngine
from tests.e2e.daemon import PATIENCE, Daemon, Site
from tests.waiting import wait_until

UP, DOWN, START_AT = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN, pb.NEXT_ACTION_START_AT
UNKNOWN = pb.NEXT_ACTION_UNKNOWN

Settings = Mapping[str, Any]
Life = tuple[str, str]  # of a container: its id, and when it was started


def entry(instance_id: str, manage: str = "docker", **more: Any) -> dict[str, Any]:
    """An entry of the site config for a compose service."""
    return {"instance-id": instance_id, "manage": manage, **more}


class Lab:
    """One site, whose daemon manages one compose project unless told otherwise."""

    def __init__(
        self, site: Site, engine: DockerEngine, image: str, make_project: Callable[..., ComposeProject]
    ) -> None:
        """`make_project` is as the fixture `compose_project`, for this engine."""
        self.site = site
        self.engine = engine
        self.image = image
        self._make_project = make_project
        self._calls = site.folder / "calls"
        self.compose_bin = self._logging_program("docker compose")
        self.project: ComposeProject = self.new_project()
        site.environ = engine.environment

    def _logging_program(self, program: str) -> Path:
        """A compose program that is `program`, and writes down how it is called."""
        self._calls.touch()
        script = self.site.folder / "compose"
        script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {self._calls}\nexec {program} "$@"\n')
        script.chmod(0o755)
        return script

    def use_program(self, program: Path) -> None:
        """Have daemons started from now on call this compose program."""
        self.compose_bin = self._logging_program(str(program))

    # --- compose files

    def text(self, services: Mapping[str, Settings], **top: Any) -> str:
        """A compose file with these services, which wait until they are told to end, and have no network."""
        common = {"image": self.image, "network_mode": "none"}
        each = {
            name: {key: value for key, value in {**common, **settings}.items() if value is not None}
            for name, settings in services.items()
        }
        return json.dumps({**top, "services": each})

    def new_project(self, services: Mapping[str, Settings] | None = None, **top: Any) -> ComposeProject:
        return self._make_project(self.text(services or {}, **top), name=top.get("name"))

    def write(self, services: Mapping[str, Settings], **top: Any) -> None:
        """Replace the compose file."""
        self.project.write(self.text(services, **top))

    # --- daemons

    def serve(self, *flags: str, files: str = "", wait: bool = True) -> Daemon:
        """Start a daemon that manages `files`, as of --docker-compose; by default the lab's project."""
        return self.site.start(
            "--docker-compose", files or str(self.project.file),
            "--docker-compose-bin", str(self.compose_bin), *flags, wait=wait,
        )  # fmt: skip

    def calls(self, command: str) -> list[str]:
        """The arguments behind `command` (up, rm) of every call of compose so far."""
        lines = self._calls.read_text().splitlines()
        return [line.partition(f" {command} ")[2] for line in lines if f" {command} " in line]

    # --- what the engine has

    def ids(self, service: str) -> list[str]:
        return self.project.containers(service)

    def lives(self, service: str) -> set[Life]:
        """Those of the containers of a service that run."""
        found = set()
        for container in self.ids(service):
            state = self.engine.api.inspect_container(container)["State"]
            if state["Running"]:
                found.add((container, state["StartedAt"]))
        return found

    def life(self, service: str) -> Life:
        """That of the one container of a service that runs."""
        (only,) = self.lives(service)
        return only

    def starts(self, container: str) -> int:
        """How often the engine started it, as far as its events reach back."""
        return len(list(self.events("start", container=container)))

    def events(self, action: str, **filters: str) -> list[dict[str, Any]]:
        """What the engine has told of containers of the lab's project until now."""
        now = self.engine.docker("system", "info", "--format", "{{.SystemTime}}")
        label = f"label=com.docker.compose.project={self.project.name}"
        more = [word for key, value in filters.items() for word in ("--filter", f"{key}={value}")]
        lines = self.engine.docker(
            "events", "--since", "1h", "--until", now, "--filter", f"event={action}", "--filter", label,
            *more, "--format", "{{json .}}",
        )  # fmt: skip
        return [json.loads(line) for line in lines.splitlines()]

    @contextmanager
    def following(self, action: str) -> Iterator[Callable[[], set[str]]]:
        """The ids of the containers of the lab's project that the engine tells this of from now on."""
        label = f"label=com.docker.compose.project={self.project.name}"
        now = self.engine.docker("system", "info", "--format", "{{.SystemTime}}")
        command = ["docker", "events", "--since", now, "--filter", f"event={action}", "--filter", label]
        told = self.site.folder / f"told-{action}"
        with told.open("w") as file:
            telling = subprocess.Popen(
                [*command, "--format", "{{.Actor.ID}}"], stdout=file, env=self.engine.environment
            )
        try:
            yield lambda: set(told.read_text().split())
        finally:
            telling.kill()
            telling.wait()


def wait_for(
    daemon: Daemon,
    instance_id: str,
    holds: Callable[[pb.ManagedInstance], object],
    what: str = "",
    patience: float = PATIENCE,
) -> pb.ManagedInstance:
    """The instance as soon as this holds of it."""
    last: list[pb.ManagedInstance] = []

    def found() -> pb.ManagedInstance | None:
        last[:] = [instance] = [daemon.instance(instance_id)]
        return instance if holds(instance) else None

    try:
        instance = wait_until(found, what or f"{instance_id} to be as expected", patience)
    except BaseException:
        print(f"last seen: {last}\n{daemon.log.read_text()[-3000:]}")
        raise
    assert instance is not None
    return instance


def is_up(instance: pb.ManagedInstance) -> bool:
    service = instance.compose_service
    return instance.next_action == UP and service.running and service.pid > 0


def is_gone(instance: pb.ManagedInstance) -> bool:
    return instance.next_action == DOWN and not instance.compose_service.container_found


def all_up(daemon: Daemon, *instance_ids: str) -> dict[str, pb.ManagedInstance]:
    """These instances, as soon as each is up."""
    return {
        instance_id: wait_for(daemon, instance_id, is_up, f"{instance_id} up") for instance_id in instance_ids
    }


def status(daemon: Daemon) -> pb.ManagerStatus:
    return daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager


def is_enforced(daemon: Daemon, lab: Lab, instance_id: str) -> None:
    """Its container is killed, and is to run again."""
    before = daemon.instance(instance_id)
    lab.engine.docker("kill", before.compose_service.container_id)
    wait_for(daemon, instance_id, lambda i: is_up(i) and i.restart_count > before.restart_count)
