"""The compose services of the demo's lab: their files, image and containers, by the docker command line."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EXAMPLE = "weather-station"  # the folder of the example, and the name of its image
PREFIX = "ocs-"  # of the services that the site config asks for
ANSWERS_WITHIN = 10.0  # s for docker to say something about itself
DONE_WITHIN = 30.0  # s for an image to be made, or containers to be removed
# What an engine was at when whoever asked for it was killed is done within this, in s.
SETTLES_WITHIN = 0.5


class DockerError(Exception):
    """Docker cannot be used for this; the text says why."""


@dataclass(frozen=True, slots=True)
class LabProject:
    """The compose project of one lab. Its files are a copy, in a folder that nobody else has the name of:
    compose names the project after it, and the image is named so, too."""

    folder: Path
    environ: Mapping[str, str]  # for docker, and for whatever calls compose

    @property
    def project(self) -> str:
        return self.folder.name

    @property
    def file(self) -> Path:
        """The compose file."""
        return self.folder / "compose.yaml"

    def image(self, version: int) -> str:
        return f"{self.project}:{version}"

    def check(self) -> None:
        """Raise DockerError unless there are an engine and compose."""
        path = self.environ.get("PATH")
        if shutil.which("docker", path=path) is None:
            raise DockerError("there is no docker command")
        self.docker("version", "--format", "{{.Server.Version}}")
        host = self.docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        if host.startswith("ssh://"):
            raise DockerError("the Docker Engine is reached by SSH, which the daemon cannot do")
        try:
            self.docker("compose", "version")
        except DockerError:
            if shutil.which("docker-compose", path=path) is None:
                raise DockerError("there is no Docker Compose") from None

    def copy(self, example: Path) -> None:
        """Make the project's folder out of that of the example."""
        shutil.copytree(example, self.folder)
        self.edit(f"{EXAMPLE}:1", self.image(1))

    def instances(self) -> list[dict[str, Any]]:
        """The entries of the example's site config that are compose services."""
        site = yaml.safe_load((self.folder / "site.yaml").read_text(encoding="utf-8"))
        entries: list[dict[str, Any]] = site["hosts"]["localhost"]["agent-instances"]
        return [entry for entry in entries if str(entry.get("manage", "")).startswith("docker")]

    def edit(self, old: str, new: str) -> None:
        """Replace a text in the compose file, wherever it is there."""
        text = self.file.read_text(encoding="utf-8")
        self.file.write_text(text.replace(old, new), encoding="utf-8")

    def make_image(self, version: int) -> None:
        """Make the image. Raises DockerError."""
        making = subprocess.Popen(
            ["sh", str(self.folder / "make-image"), self.image(version), f"VERSION={version}"],
            env={**self.environ, "TMPDIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, said = making.communicate(timeout=DONE_WITHIN)
        except subprocess.TimeoutExpired as error:
            raise DockerError(f"the image was not made within {DONE_WITHIN:g} s") from error
        finally:
            # Also when the demo is asked to end meanwhile: an image that is there only later is not removed.
            with suppress(subprocess.TimeoutExpired):
                making.wait(DONE_WITHIN)
            making.kill()
        if making.returncode:
            raise DockerError(_first_line(said))

    def docker(self, *arguments: str, within: float = ANSWERS_WITHIN) -> str:
        """What the docker command prints. Raises DockerError."""
        return _ask(["docker", *arguments], self.environ, within)

    def containers(self) -> dict[str, str]:
        """The names of the project's containers, running or not, with their services."""
        lines = self._list("ps", "--all", "--format", '{{.Names}} {{.Label "com.docker.compose.service"}}')
        return {name: service for name, _, service in (line.partition(" ") for line in lines)}

    def remove(self, *, settled: bool) -> list[str]:
        """Remove all there is of the project: containers, networks and images. `settled`: nobody is at
        work on it. The containers of the site config's instances that were there. Raises DockerError."""
        left: list[str] = []
        deadline = time.monotonic() + DONE_WITHIN
        while True:
            containers = self.containers()
            left += [name for name, service in containers.items() if service.startswith(PREFIX)]
            networks = self._list("network", "ls", "--quiet")
            images = self.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", self.project).split()
            if containers:
                self.docker("rm", "--force", "--volumes", *containers, within=DONE_WITHIN)
            if networks:
                self.docker("network", "rm", *networks, within=DONE_WITHIN)
            if images:
                self.docker("rmi", "--force", *images, within=DONE_WITHIN)
            if settled or time.monotonic() > deadline:
                return left
            # Once nothing is found, a last look after a while.
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
            start_new_session=True,  # the terminal's Ctrl-C is for the demo
        )
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"'{' '.join(command[:2])}' does not answer within {within:g} s") from error
    except OSError as error:
        raise DockerError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode:
        raise DockerError(_first_line(done.stderr or done.stdout))
    return done.stdout.strip()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "docker gives no reason")
