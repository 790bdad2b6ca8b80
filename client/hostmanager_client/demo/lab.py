"""The lab of the demo: a daemon with the example site in a temporary directory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import click
import yaml
from hostmanager.values import dataclass, field

from hostmanager_client.address import LONGEST_SOCKET_PATH
from hostmanager_client.demo.compose import EXAMPLE, DockerError, LabProject
from hostmanager_client.demo.processes import Mark
from hostmanager_client.errors import HostManagerError
from hostmanager_client.reconnect import ConnectionChange
from hostmanager_client.sync import HostManagerClient

REGISTRY_PORT = "18080"  # of the example site; replaced by a free port
SERVING_WITHIN = 30.0  # s
# s; longer than the sum of all stop graces of the example site
DOWN_WITHIN = 30.0
KILLED_WITHIN = 10.0  # s


class DemoError(click.ClickException):
    """A failure of the demo; the text has the cause."""


def find_examples() -> Path:
    """Return the folder of the example site in this package; raise DemoError if missing."""
    folder = Path(str(files("hostmanager_client"))) / "examples"
    if not (folder / "site.yaml").is_file():
        raise DemoError(f"cannot find the example site: {folder} has no site.yaml")
    return folder


@dataclass(slots=True)
class DemoLab:
    """One lab; `open` starts the daemon and writes the first files."""

    environ: Mapping[str, str]  # of the caller of the demo
    mark: Mark = field(default_factory=Mark)
    folder: Path = Path()
    services: LabProject | None = None
    why_no_services: str = ""  # empty if the lab has compose services
    closing: bool = False  # from now on a signal only sets `kill_now`
    kill_now: bool = False  # `close` kills instead of waiting
    _daemon: subprocess.Popen[bytes] | None = None

    @property
    def site_file(self) -> Path:
        """The site config of the lab."""
        return self.folder / "examples/site.yaml"

    @property
    def address(self) -> str:
        """The address of the daemon."""
        return f"unix:{self.folder / 'hm.sock'}"

    @property
    def command(self) -> str:
        """The `hostmanager` command of this Python; raises DemoError if missing."""
        path = Path(sys.executable).with_name("hostmanager")
        found = str(path) if path.is_file() else shutil.which("hostmanager")
        if found is None:
            raise DemoError(f"cannot find the command hostmanager in {path.parent} or in PATH")
        return found

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the daemon and of client commands.

        The python3 of the agents is this Python. The COMPOSE_ variables of the user are removed, as they
        concern other projects.
        """
        kept = {name: value for name, value in self.environ.items() if not name.startswith("COMPOSE_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{self.environ.get('PATH', os.defpath)}"
        return {**kept, "PATH": path, "HOSTMANAGER_ADDRESS": self.address}

    def client(self) -> HostManagerClient:
        """Return a client of the daemon."""
        return HostManagerClient(self.address)

    def open(self) -> None:
        """Start the daemon and wait for its first answer; raise DemoError on failure."""
        examples = find_examples()
        self.folder = _make_folder()
        shutil.copytree(examples, self.folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        site = self.site_file.read_text(encoding="utf-8")
        self.site_file.write_text(site.replace(REGISTRY_PORT, str(_free_port())), encoding="utf-8")
        self._set_up_services(examples / EXAMPLE)
        with (self.folder / "daemon.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    *(self.command, "serve", str(self.site_file)),
                    *("--state-dir", str(self.folder / "state")),
                    *("--listen", self.address),
                    *(("--docker-compose", str(self.services.file)) if self.services else ()),
                ],
                cwd=self.folder,
                env=self.environment | self.mark.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on the terminal must reach the demo only, which then stops the daemon.
                start_new_session=True,
            )
        self._wait_until_it_serves(self._daemon)

    def _set_up_services(self, example: Path) -> None:
        """Add compose services to the lab, or store the obstacle in `why_no_services`."""
        services = LabProject(self.folder / f"hostmanager-demo-{self.mark.value[:8]}", self.environment)
        try:
            services.check()
            services.copy(example)
            self.services = services  # from here on `close` may have something to remove
            services.make_image(1)
        except DockerError as error:
            self.why_no_services = str(error)
            if self.services is not None:
                with suppress(DockerError):
                    self.services.remove(settled=False)
                self.services = None
            return
        site = yaml.safe_load(self.site_file.read_text(encoding="utf-8"))
        site["hosts"]["localhost"]["agent-instances"] += services.instances()
        self.site_file.write_text(yaml.safe_dump(site, sort_keys=False), encoding="utf-8")

    def _wait_until_it_serves(self, daemon: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + SERVING_WITHIN
        with self.client() as client:
            while True:
                try:
                    client.get_status()
                    return
                except HostManagerError as error:
                    if time.monotonic() > deadline:
                        raise DemoError(f"the daemon does not answer: {error}\n{self._log_tail()}") from error
                try:
                    code = daemon.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
                raise DemoError(f"the daemon ended with exit code {code}:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        lines = (self.folder / "daemon.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-20:])

    def check_daemon(self, _change: ConnectionChange) -> None:
        """Raise DemoError if the daemon has ended; a listener for lost connections of watches."""
        if self._daemon is not None and (code := self._daemon.poll()) is not None:
            raise DemoError(f"the daemon ended with exit code {code}:\n{self._log_tail()}")

    def close(self) -> None:
        """Stop the daemon and remove the lab; raise DemoError if anything had to be killed.

        Wait for the daemon to end unless `kill_now` is or gets set. Afterwards, in every case, every process
        with the mark is dead, and the folder, the containers and their image are removed.
        """
        problems: list[str] = []
        if self._daemon is not None and self._daemon.poll() is None and (problem := self._end(self._daemon)):
            problems.append(problem)
        killed = self.mark.kill(KILLED_WITHIN)
        in_order = self._daemon is not None and self._daemon.poll() == 0 and not killed
        if self.services is not None:
            try:
                removed = self.services.remove(settled=in_order)
            except DockerError as error:
                project = self.services.project
                problems.append(f"cannot remove the compose project {project}: {error}")
            else:
                if removed and in_order:
                    problems.append(f"the daemon left containers behind, now removed: {', '.join(removed)}")
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)
        if killed and not self.kill_now:
            problems.append(f"the daemon left processes behind, now killed: {_listed(killed)}")
        if self.folder != Path() and self.folder.exists():
            problems.append(f"cannot remove {self.folder}")
        if alive := self.mark.pids():
            problems.append(f"cannot kill the processes {_listed(alive)}")
        if problems:
            raise DemoError("; ".join(problems))

    def _end(self, daemon: subprocess.Popen[bytes]) -> str:
        """Stop the daemon by SIGTERM; return the problem, or an empty string."""
        daemon.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + DOWN_WITHIN
        while not self.kill_now:
            try:
                code = daemon.wait(0.1)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    return f"the daemon did not end within {DOWN_WITHIN:g} s"
            else:
                return f"the daemon ended with exit code {code}" if code else ""
        return ""


def _make_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="hostmanager-demo-")
    if len(os.fsencode(f"{folder}/hm.sock")) > LONGEST_SOCKET_PATH:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="hostmanager-demo-", dir="/tmp")
    return Path(folder).resolve()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _listed(pids: list[int]) -> str:
    return ", ".join(map(str, pids))
