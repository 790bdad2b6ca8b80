"""Sites with compose services on a real engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from tests.docker_engine import ComposeProject, RealEngine
from tests.e2e.daemon import Daemon, Site
from tests.waiting import TIMEOUT, wait_until

UP, DOWN, START_AT = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN, pb.NEXT_ACTION_START_AT
UNKNOWN = pb.NEXT_ACTION_UNKNOWN

Settings = Mapping[str, Any]
Life = tuple[str, str]  # the id of a container, and its StartedAt


def entry(instance_id: str, manage: str = "docker", **more: Any) -> dict[str, Any]:
    """Return an entry of the site config for a compose service."""
    return {"instance-id": instance_id, "manage": manage, **more}


class Lab:
    """A site with a compose project, which the daemons of the site manage by default."""

    def __init__(
        self, site: Site, engine: RealEngine, image: str, make_project: Callable[..., ComposeProject]
    ) -> None:
        """`make_project` is the fixture `compose_project`, or its like for `engine`."""
        self.site = site
        self.engine = engine
        self.image = image
        self._make_project = make_project
        self._calls = site.folder / "calls"
        self.compose_bin = self._logging_program("docker compose")
        self.project: ComposeProject = self.new_project()
        site.environ = engine.environment

    def _logging_program(self, program: str) -> Path:
        """Write a script that logs its arguments and executes `program`."""
        self._calls.touch()
        script = self.site.folder / "compose"
        script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {self._calls}\nexec {program} "$@"\n')
        script.chmod(0o755)
        return script

    def use_program(self, program: Path) -> None:
        """Let later daemons call this compose program."""
        self.compose_bin = self._logging_program(str(program))

    # --- compose files

    def text(self, services: Mapping[str, Settings], **top: Any) -> str:
        """Return a compose file with these services.

        The services run until a signal and have no network. A setting of None removes that default.
        """
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
        """Start a daemon with `files` as --docker-compose.

        The default is the file of the lab's project.
        """
        return self.site.start(
            "--docker-compose", files or str(self.project.file),
            "--docker-compose-bin", str(self.compose_bin), *flags, wait=wait,
        )  # fmt: skip

    def calls(self, command: str) -> list[str]:
        """Return the arguments after `command` (up, rm) of every compose call up to now."""
        lines = self._calls.read_text().splitlines()
        return [line.partition(f" {command} ")[2] for line in lines if f" {command} " in line]

    # --- the engine

    def ids(self, service: str) -> list[str]:
        return self.project.containers(service)

    def lives(self, service: str) -> set[Life]:
        """Return the lives of the running containers of a service."""
        found = set()
        for container in self.ids(service):
            state = self.engine.api.inspect_container(container)["State"]
            if state["Running"]:
                found.add((container, state["StartedAt"]))
        return found

    def life(self, service: str) -> Life:
        """Return the life of the only running container of a service."""
        (only,) = self.lives(service)
        return only

    def starts(self, container: str) -> int:
        """Return the number of starts of a container in the events that the engine keeps."""
        return len(list(self.events("start", container=container)))

    def events(self, action: str, **filters: str) -> list[dict[str, Any]]:
        """Return the engine's past events of containers of the lab's project."""
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
        """Collect the ids of the project's containers with this event from now on."""
        label = f"label=com.docker.compose.project={self.project.name}"
        now = self.engine.docker("system", "info", "--format", "{{.SystemTime}}")
        command = ["docker", "events", "--since", now, "--filter", f"event={action}", "--filter", label]
        output = self.site.folder / f"events-{action}"
        with output.open("w") as file:
            follower = subprocess.Popen(
                [*command, "--format", "{{.Actor.ID}}"], stdout=file, env=self.engine.environment
            )
        try:
            yield lambda: set(output.read_text().split())
        finally:
            follower.kill()
            follower.wait()


def wait_for(
    daemon: Daemon,
    instance_id: str,
    holds: Callable[[pb.ManagedInstance], object],
    what: str = "",
    timeout: float = TIMEOUT,
) -> pb.ManagedInstance:
    """Return the instance as soon as the condition holds for the instance."""
    last: list[pb.ManagedInstance] = []

    def found() -> pb.ManagedInstance | None:
        last[:] = [instance] = [daemon.instance(instance_id)]
        return instance if holds(instance) else None

    try:
        instance = wait_until(found, what or f"{instance_id} to be as expected", timeout)
    except BaseException:
        print(f"last status: {last}\n{daemon.log.read_text()[-3000:]}")
        raise
    assert instance is not None
    return instance


def is_up(instance: pb.ManagedInstance) -> bool:
    service = instance.compose_service
    return instance.next_action == UP and service.running and service.pid > 0


def is_gone(instance: pb.ManagedInstance) -> bool:
    return instance.next_action == DOWN and not instance.compose_service.container_found


def all_up(daemon: Daemon, *instance_ids: str) -> dict[str, pb.ManagedInstance]:
    """Return these instances as soon as each is up."""
    return {
        instance_id: wait_for(daemon, instance_id, is_up, f"{instance_id} up") for instance_id in instance_ids
    }


def status(daemon: Daemon) -> pb.ManagerStatus:
    return daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager


def is_enforced(daemon: Daemon, lab: Lab, instance_id: str) -> None:
    """Kill the container of an instance, and wait for the restart by the daemon."""
    before = daemon.instance(instance_id)
    lab.engine.docker("kill", before.compose_service.container_id)
    wait_for(daemon, instance_id, lambda i: is_up(i) and i.restart_count > before.restart_count)
