"""The compose project of the demo: files, image and containers, by the docker command line."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hostmanager.values import dataclass

EXAMPLE = "weather-station"  # folder and image name of the example
PREFIX = "ocs-"  # of the services with an entry in the site config
ANSWERS_WITHIN = 10.0  # s, for queries of docker
DONE_WITHIN = 30.0  # s, to build an image or to remove containers
# Time in s within which an engine finishes the work for a killed client.
SETTLES_WITHIN = 0.5


class DockerError(Exception):
    """A failure of docker; the text has the cause."""


@dataclass(frozen=True, slots=True)
class LabProject:
    """The compose project of one lab.

    The project files are a copy in a folder with a unique name. Compose names the project after the folder,
    and the image has the same name.
    """

    folder: Path
    environ: Mapping[str, str]  # of docker commands and of the daemon

    @property
    def project(self) -> str:
        """The name of the project."""
        return self.folder.name

    @property
    def file(self) -> Path:
        """The compose file."""
        return self.folder / "compose.yaml"

    def image(self, version: int) -> str:
        """Return the tag of a version of the image."""
        return f"{self.project}:{version}"

    def check(self) -> None:
        """Check that an engine and compose are usable; raise DockerError otherwise."""
        path = self.environ.get("PATH")
        if shutil.which("docker", path=path) is None:
            raise DockerError("the command docker is not installed")
        self.docker("version", "--format", "{{.Server.Version}}")
        host = self.docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        if host.startswith("ssh://"):
            raise DockerError("the Docker Engine is behind SSH, which the daemon does not support")
        try:
            self.docker("compose", "version")
        except DockerError:
            if shutil.which("docker-compose", path=path) is None:
                raise DockerError("Docker Compose is not installed") from None

    def copy(self, example: Path) -> None:
        """Copy the folder of the example."""
        shutil.copytree(example, self.folder)
        self.edit(f"{EXAMPLE}:1", self.image(1))

    def instances(self) -> list[dict[str, Any]]:
        """Return the compose services in the site config of the example."""
        site = yaml.safe_load((self.folder / "site.yaml").read_text(encoding="utf-8"))
        entries: list[dict[str, Any]] = site["hosts"]["localhost"]["agent-instances"]
        return [entry for entry in entries if str(entry.get("manage", "")).startswith("docker")]

    def edit(self, old: str, new: str) -> None:
        """Replace every occurrence of a text in the compose file."""
        text = self.file.read_text(encoding="utf-8")
        self.file.write_text(text.replace(old, new), encoding="utf-8")

    def make_image(self, version: int) -> None:
        """Build a version of the image; raise DockerError on failure."""
        build = subprocess.Popen(
            ["sh", str(self.folder / "make-image"), self.image(version), f"VERSION={version}"],
            env={**self.environ, "TMPDIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, output = build.communicate(timeout=DONE_WITHIN)
        except subprocess.TimeoutExpired as error:
            raise DockerError(f"cannot build the image within {DONE_WITHIN:g} s") from error
        finally:
            # Wait after a signal, too: `remove` would miss an image that appears later.
            with suppress(subprocess.TimeoutExpired):
                build.wait(DONE_WITHIN)
            build.kill()
        if build.returncode:
            raise DockerError(_first_line(output))

    def docker(self, *arguments: str, within: float = ANSWERS_WITHIN) -> str:
        """Return the output of a docker command; raise DockerError on failure."""
        return _ask(["docker", *arguments], self.environ, within)

    def containers(self) -> dict[str, str]:
        """Return the names of all containers of the project, with their services."""
        lines = self._list("ps", "--all", "--format", '{{.Names}} {{.Label "com.docker.compose.service"}}')
        return {name: service for name, _, service in (line.partition(" ") for line in lines)}

    def remove(self, *, settled: bool) -> list[str]:
        """Remove the containers, networks and images of the project.

        `settled`: no process still works on the project. Returns the removed containers of instances of the
        site config. Raises DockerError on failure.
        """
        removed: list[str] = []
        deadline = time.monotonic() + DONE_WITHIN
        while True:
            containers = self.containers()
            removed += [name for name, service in containers.items() if service.startswith(PREFIX)]
            networks = self._list("network", "ls", "--quiet")
            images = self.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", self.project).split()
            if containers:
                self.docker("rm", "--force", "--volumes", *containers, within=DONE_WITHIN)
            if networks:
                self.docker("network", "rm", *networks, within=DONE_WITHIN)
            if images:
                self.docker("rmi", "--force", *images, within=DONE_WITHIN)
            if settled or time.monotonic() > deadline:
                return removed
            # After an empty pass, check once more.
            settled = not (containers or networks or images)
            time.sleep(SETTLES_WITHIN)

    def _list(self, *command: str) -> list[str]:
        label = f"label=com.docker.compose.project={self.project}"
        return self.docker(*command, "--filter", label).splitlines()


def _ask(command: Sequence[str], environ: Mapping[str, str], within: float) -> str:
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within,
            check=False,
            start_new_session=True,  # Ctrl-C on the terminal must reach the demo only
        )
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"'{' '.join(command[:2])}' does not answer within {within:g} s") from error
    except OSError as error:
        raise DockerError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode:
        raise DockerError(_first_line(done.stderr or done.stdout))
    return done.stdout.strip()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "docker gave no reason")
