"""Test tools for a real Docker Engine: images, compose projects, a registry."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import secrets
import select
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import docker

DEFAULT_HOST = "unix:///var/run/docker.sock"
BUSYBOX = Path("/bin/busybox")
COMPOSE_V1 = Path("/usr/bin/docker-compose")
DEADLINE = 60.0  # s; for actions that take an idle machine a second or two
WAITS = 'CMD ["sh", "-c", "trap \'exit 0\' INT TERM; sleep 2147483647 & wait"]'  # ends at once on SIGTERM
_APPLETS = ("sh", "cat", "echo", "env", "false", "httpd", "kill", "ls", "nc", "ps", "sleep", "touch", "true")


class DockerCallError(Exception):
    """A failed docker or compose command; the text has the command and output."""


def unique_name(prefix: str = "hmtest") -> str:
    """Return a name that no other test uses, in any run.

    The name is for an image, a container or a project.
    """
    return f"{prefix}-{secrets.token_hex(4)}"


def wait_while_running(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the condition holds, checking every 20 ms; fail at once when the process ends."""
    deadline = time.monotonic() + DEADLINE
    pidfd = os.pidfd_open(process.pid)
    try:
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        while not condition():
            assert not ended.poll(20), f"{what}: the process exited with code {process.wait()}"
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE:.0f} s"
    finally:
        os.close(pidfd)


def _run(command: Sequence[str | Path], environment: Mapping[str, str], stdin: bytes | None) -> str:
    done = subprocess.run(
        command, env=environment, input=stdin, capture_output=True, check=False, timeout=2 * DEADLINE
    )
    if done.returncode != 0:
        output = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise DockerCallError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {output}")
    return done.stdout.decode().strip()


@dataclass(frozen=True)
class RealEngine:
    """A running engine; `remove_images` removes images imported here."""

    host: str
    """The address, as in DOCKER_HOST."""
    _imported: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The process environment with this engine's address as only docker setting."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))
        }
        return kept | {"DOCKER_HOST": self.host}

    @cached_property
    def api(self) -> docker.APIClient:
        return docker.APIClient(base_url=self.host, version="auto", timeout=int(DEADLINE))

    def answers(self, within: int = 2) -> bool:
        """Return whether the engine answers a ping within `within` seconds."""
        try:
            client = docker.APIClient(base_url=self.host, version="auto", timeout=within)
            with contextlib.closing(client) as api:
                return bool(api.ping())
        except (docker.errors.DockerException, OSError):
            return False

    def docker(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """Run a docker command and return its output; raise DockerCallError on failure."""
        return _run(["docker", *arguments], self.environment, stdin)

    def compose(self, file: Path, *arguments: str | Path) -> str:
        """Run `docker compose` for a file; return its output or raise DockerCallError."""
        return self.docker("compose", "--file", file, *arguments)

    def import_image(
        self, tag: str, changes: Sequence[str] = (WAITS,), files: Mapping[str, bytes] | None = None
    ) -> str:
        """Create an image of busybox and these files, and return its id.

        Paths are absolute, and files get mode 755.

        The tag moves to the new image. Every call creates a distinct image, also for equal content.
        `changes` are Dockerfile instructions that `docker import` accepts: CMD, ENTRYPOINT, ENV, EXPOSE,
        USER…
        """
        options = itertools.chain.from_iterable(("--change", change) for change in changes)
        printed = self.docker("import", *options, "-", tag, stdin=_busybox_archive(files or {}))
        image = printed.split()[-1]  # Podman prints the id twice
        self._imported.extend((tag, image))
        return image

    def remove_images(self) -> None:
        """Remove the images of import_image, even if stopped containers still use them."""
        for image in self._imported:
            with contextlib.suppress(docker.errors.NotFound):
                self.api.remove_image(image, force=True)
        self._imported.clear()

    def containers_of(self, project: str, service: str | None = None) -> list[str]:
        """Return the ids of all containers of a compose project, or of one service."""
        labels = [f"com.docker.compose.project={project}"]
        if service is not None:
            labels.append(f"com.docker.compose.service={service}")
        return [found["Id"] for found in self.api.containers(all=True, filters={"label": labels})]

    def remove_project(self, project: str) -> None:
        """Remove all containers, networks and volumes of a compose project, listed or not."""
        label = f"label=com.docker.compose.project={project}"
        if containers := self.containers_of(project):
            self.docker("rm", "--force", "--volumes", *containers)
        for kind in ("network", "volume"):
            if left := self.docker(kind, "ls", "--quiet", "--filter", label).split():
                self.docker(kind, "rm", *left)


def _busybox_archive(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:

        def add(path: str, content: bytes) -> None:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))

        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        add("/bin/busybox", BUSYBOX.read_bytes())
        for applet in _APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
        for path, content in files.items():
            add(path, content)
    return packed.getvalue()


def engine_or_reason() -> RealEngine | str:
    """Return the engine of this machine, or why tests cannot use one."""
    engine = RealEngine(os.environ.get("DOCKER_HOST") or DEFAULT_HOST)
    what_to_do = "run `make engine` as root"
    if shutil.which("docker") is None:
        return f"no docker command; {what_to_do}"
    if not engine.answers(within=int(DEADLINE)):  # a missing engine refuses at once
        return f"no Docker engine answers at {engine.host} for this user; {what_to_do}"
    try:
        engine.docker("compose", "version")
    except DockerCallError as error:
        return f"no docker compose plugin ({error}); {what_to_do}"
    if not BUSYBOX.exists():
        return f"no static busybox at {BUSYBOX} to make images of; {what_to_do}"
    return engine


def compose_v1_or_reason() -> Path | str:
    """Return the standalone Compose v1 of this machine, or why there is none."""
    try:
        version = _run([COMPOSE_V1, "version", "--short"], os.environ, None)
    except (OSError, DockerCallError) as error:
        return f"no Compose v1: {error}; run `make engine` as root on Debian 12"
    return COMPOSE_V1 if version.startswith("1.") else f"no Compose v1: {COMPOSE_V1} is version {version}"


@dataclass(frozen=True, slots=True)
class ComposeProject:
    """A compose file in its own folder.

    Both Compose v1 and v2 name the project after the folder.
    """

    engine: RealEngine
    file: Path
    name: str

    def write(self, text: str) -> None:
        """Replace the compose file by a rename, as an editor does."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.file)

    def compose(self, *arguments: str | Path) -> str:
        """Run `docker compose` for the file; return its output or raise DockerCallError."""
        return self.engine.compose(self.file, *arguments)

    def containers(self, service: str | None = None) -> list[str]:
        """Return the ids of the project's containers, running or not.

        Containers of services that left the file are included.
        """
        return self.engine.containers_of(self.name, service)


class MakeProject(Protocol):
    def __call__(self, text: str, *, name: str | None = None, on: RealEngine | None = None) -> ComposeProject:
        """Create a project of this compose file, without starting a service.

        The file gets a new folder.

        `name` is for a file that fixes its own name by a top-level `name:`. `on` selects another engine,
        which removes its containers itself.
        """


@contextlib.contextmanager
def compose_projects(directory: Path, engine: RealEngine) -> Iterator[MakeProject]:
    """Return a maker of projects, and remove all of them at the end.

    Their networks and volumes are removed as well.
    """
    names: list[str] = []

    def make(text: str, *, name: str | None = None, on: RealEngine | None = None) -> ComposeProject:
        folder = unique_name()
        project = ComposeProject(on or engine, directory / folder / "docker-compose.yaml", name or folder)
        project.file.parent.mkdir(parents=True)
        project.write(text)
        if on is None:
            names.append(project.name)
        return project

    try:
        yield make
    finally:
        for name in names:
            engine.remove_project(name)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry on loopback, which engines trust without TLS."""

    address: str
    """host:port"""

    def reference(self, tag: str) -> str:
        """Return the name of an image with this tag in the registry."""
        return f"{self.address}/{tag}"

    def push(self, engine: RealEngine, tag: str) -> str:
        """Push the engine's image of this tag, and return its reference.

        The engine then has no image of that reference. A pull downloads layers only if no other image has
        them, so only after `docker rmi` of the tag.
        """
        reference = self.reference(tag)
        engine.docker("tag", tag, reference)
        engine.docker("push", "--quiet", reference)
        engine.docker("rmi", "--no-prune", reference)
        return reference

    def remove_pulled(self, engine: RealEngine) -> None:
        """Remove all images that the engine has pulled from this registry."""
        for image in engine.api.images():
            for tag in image["RepoTags"] or ():
                if tag.startswith(f"{self.address}/"):
                    engine.api.remove_image(tag, force=True)


@contextlib.contextmanager
def running_registry(directory: Path) -> Iterator[Registry]:
    """Run a registry that stores its images in this directory."""
    configuration = directory / "registry.yaml"
    configuration.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {directory / 'images'}}}, delete: {{enabled: true}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"
        "log: {level: info, formatter: json}\n"
    )
    log = directory / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", configuration],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def listens() -> re.Match[str] | None:
        return re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())

    try:
        wait_while_running(lambda: listens() is not None, f"the registry does not start, see {log}", process)
        found = listens()
        assert found is not None
        yield Registry(found[1])
    finally:
        process.terminate()
        process.wait(DEADLINE)
