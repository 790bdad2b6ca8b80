"""Runs of `hostmanager demo`: the tour, interruptions, and the clean-up."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hostmanager_server.linux.pidfds import read_stat

from tests.docker_engine import DockerCallError, RealEngine
from tests.e2e.daemon import COMMAND, end_marked, marked
from tests.waiting import wait_until

TIMEOUT = 500.0  # s

# Makes standard input the controlling terminal, which Popen cannot do, then executes the command.
ON_A_TERMINAL = (
    "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
)


NO_ENGINE = "unix:///nowhere/docker.sock"


class Demo:
    """A run of the demo, without an engine by default.

    An environment variable marks the processes of the run, the folder of the compose file its containers.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        terminal: bool = False,
        engine: RealEngine | None = None,
        path: str = os.environ["PATH"],
    ) -> None:
        self.mark = folder / "mark"
        # A short path: the demo puts its socket there, and the path of a socket has at most 107 bytes.
        self.temporary = Path(tempfile.mkdtemp(prefix="hm-"))
        self._output = bytearray()
        self._engine = engine
        self._master, slave = pty.openpty() if terminal else os.pipe()
        command = [str(COMMAND), "demo", *arguments]
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *command] if terminal else command,
            env=(engine.environment if engine else {**os.environ, "DOCKER_HOST": NO_ENGINE})
            | {
                "TEST_SITE": str(self.mark),
                "TMPDIR": str(self.temporary),
                "COLUMNS": "160",
                "PATH": path,
            },
            stdin=slave if terminal else subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with open(self._master, "rb", buffering=0) as output:
            while True:
                try:
                    piece = output.read(65536)
                except OSError:  # a pseudo-terminal that no process has open
                    return
                if not piece:
                    return
                self._output += piece

    @property
    def output(self) -> str:
        """Return the output so far, without colours."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._output.decode(errors="replace"))

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def type(self, keys: bytes) -> None:
        """Type keys on the terminal of the demo."""
        with suppress(OSError):  # the demo has ended
            os.write(self._master, keys)

    def wait(self) -> int:
        code = self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def daemon(self) -> int:
        """Return the pid of the demo's daemon.

        A process between fork and exec has the daemon's command line, too, but another parent.
        """
        return next(pid for pid in _commands(self, b"serve") if _parent(pid) == self._process.pid)

    def leftovers(self) -> list[int]:
        return marked(self.mark)

    def project(self) -> str:
        """Return the name of the compose project; empty before the compose file exists."""
        found = self.temporary.glob("hostmanager-demo-*/hostmanager-demo-*/compose.yaml")
        return next((file.parent.name for file in found), "")

    def resources_on_the_engine(self, project: str) -> list[str]:
        """Return the containers, networks and images of the compose project."""
        assert self._engine is not None
        label = f"label=com.docker.compose.project={project}"
        engine = self._engine
        return [
            *engine.containers_of(project),
            *engine.docker("network", "ls", "--quiet", "--filter", label).split(),
            *engine.docker("image", "ls", "--quiet", project).split(),
        ]

    def kill(self) -> None:
        project = self.project()
        self._process.kill()
        self._process.wait()
        end_marked(self.mark)
        self._reader.join(TIMEOUT)
        if self._engine is not None and project:
            self._engine.remove_project(project)
            for version in (1, 2):
                with suppress(DockerCallError):
                    self._engine.docker("rmi", "--force", f"{project}:{version}")
        shutil.rmtree(self.temporary)


@pytest.fixture
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Demo]]:
    """Return a list for the demos of a test, which are killed after the test."""
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.kill()


def test_without_a_terminal_the_tour_runs_and_explains_the_missing_compose_services(
    demos: list[Demo], tmp_path: Path
) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    assert demo.wait() == 0, demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []
    titles = re.findall(r"^=== \d\. (.*)$", demo.output, re.MULTILINE)
    assert len(titles) == 6
    assert "SIGKILL" in demo.output
    assert "restart required" in demo.output
    assert "no process and no file remains" in demo.output
    (reason,) = re.findall(r"^the lab has no compose services: (.*)$", demo.output, re.MULTILINE)
    assert "docker" in reason


def test_with_an_engine_the_tour_has_compose_services(
    demos: list[Demo], tmp_path: Path, engine: RealEngine
) -> None:
    demo = Demo(tmp_path, engine=engine)
    demos.append(demo)
    project = wait_until(demo.project, "the demo to have its compose file")
    assert demo.wait() == 0, demo.output
    assert (demo.leftovers(), demo.resources_on_the_engine(project)) == ([], [])
    assert list(demo.temporary.iterdir()) == []
    titles = re.findall(r"^=== \d+\. (.*)$", demo.output, re.MULTILINE)
    assert len(titles) == 10
    assert re.search(r"^weather +WeatherStation\[d\] +up +up ", demo.output, re.MULTILINE)
    assert re.search(r"^dashboard +\[docker\] +passive +down ", demo.output, re.MULTILINE)
    assert "WeatherStation:weather ended with code 137" in demo.output
    assert f"images to pull: {project}:2 (for weather)" in demo.output
    assert "(dashboard): removed" in demo.output
    assert "no container, no image and no file remains" in demo.output


def test_ctrl_c_leaves_nothing_behind_on_the_engine(
    demos: list[Demo], tmp_path: Path, engine: RealEngine
) -> None:
    demo = Demo(tmp_path, terminal=True, engine=engine)
    demos.append(demo)
    wait_until(lambda: re.search(r"weather .* up +up ", demo.output), "the live table to show the service up")
    project = demo.project()
    assert demo.resources_on_the_engine(project)
    demo.type(b"\x03")
    assert demo.wait() == 0, demo.output
    assert (demo.leftovers(), demo.resources_on_the_engine(project)) == ([], [])
    assert list(demo.temporary.iterdir()) == []


@pytest.mark.parametrize("moment", ["the image is made", "compose is called"])
def test_an_early_sigterm_leaves_nothing_behind_on_the_engine(
    demos: list[Demo], tmp_path: Path, engine: RealEngine, moment: str
) -> None:
    demo = Demo(tmp_path, engine=engine)
    demos.append(demo)
    project = wait_until(demo.project, "the demo to have its compose file")
    if moment == "compose is called":
        wait_until(lambda: _commands(demo, b"compose", b"up"), "the daemon to call compose")
    demo.signal(signal.SIGTERM)
    assert demo.wait() == 128 + signal.SIGTERM, demo.output
    assert (demo.leftovers(), demo.resources_on_the_engine(project)) == ([], [])
    assert list(demo.temporary.iterdir()) == []


@pytest.mark.parametrize("moment", ["compose is called", "all is up"])
def test_a_daemon_that_dies_leaves_nothing_behind_on_the_engine(
    demos: list[Demo], tmp_path: Path, engine: RealEngine, moment: str
) -> None:
    demo = Demo(tmp_path, engine=engine)
    demos.append(demo)
    project = wait_until(demo.project, "the demo to have its compose file")
    if moment == "compose is called":
        wait_until(lambda: _commands(demo, b"compose", b"up"), "the daemon to call compose")
    else:
        wait_until(lambda: "=== 2." in demo.output, "the lab to be up")
    os.kill(demo.daemon(), signal.SIGKILL)
    assert demo.wait() not in (0, -signal.SIGKILL)
    assert "Error: " in demo.output
    assert "Traceback" not in demo.output
    assert (demo.leftovers(), demo.resources_on_the_engine(project)) == ([], [])
    assert list(demo.temporary.iterdir()) == []


def test_an_image_that_cannot_be_made_leaves_the_services_out(
    demos: list[Demo], tmp_path: Path, engine: RealEngine
) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "docker").write_text(
        f'#!/bin/sh\n[ "$1" = import ] && {{ echo "no space left" >&2; exit 1; }}\n'
        f'exec {shutil.which("docker")} "$@"\n'
    )
    (broken / "docker").chmod(0o755)
    demo = Demo(tmp_path, engine=engine, path=f"{broken}:{os.environ['PATH']}")
    demos.append(demo)
    assert demo.wait() == 0, demo.output
    assert "the lab has no compose services: no space left" in demo.output
    assert list(demo.temporary.iterdir()) == []


def test_on_a_terminal_ctrl_c_ends_it_and_leaves_nothing_behind(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path, terminal=True)
    demos.append(demo)
    wait_until(lambda: re.search(r"scanner .* up +up ", demo.output), "the live table to show the lab up")
    wait_until(lambda: len(demo.leftovers()) > 10, "all processes of the lab")
    demo.type(b"\x03")
    assert demo.wait() == 0, demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []
    assert "no process and no file remains" in demo.output


def test_an_impatient_second_ctrl_c_leaves_nothing_behind_either(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path, terminal=True)
    demos.append(demo)
    wait_until(lambda: re.search(r"readout .* up +up ", demo.output), "the live table to show the lab up")
    demo.type(b"\x03")
    wait_until(lambda: "bringing everything down" in demo.output, "the demo to start its clean-up")
    demo.type(b"\x03")
    assert demo.wait() == 0, demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_tour_leaves_nothing_behind(
    demos: list[Demo], tmp_path: Path, signum: signal.Signals
) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    wait_until(lambda: "the daemon listens on" in demo.output, "the start of the demo")
    demo.signal(signum)
    assert demo.wait() == 128 + signum
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []


def test_a_failed_step_is_reported_and_everything_is_brought_down(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    wait_until(lambda: "the daemon listens on" in demo.output, "the start of the demo")
    os.kill(demo.daemon(), signal.SIGKILL)
    assert demo.wait() not in (0, -signal.SIGKILL)
    assert "Error: " in demo.output
    assert "Traceback" not in demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []


def _parent(pid: int) -> int:
    stat = read_stat(pid)
    return stat.parent if stat is not None else 0


def _commands(demo: Demo, *words: bytes) -> list[int]:
    """Return the processes of the demo with all these words in the command line."""
    found = []
    for pid in demo.leftovers():
        with suppress(OSError):  # the process has ended
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if set(words) <= set(line):
                found.append(pid)
    return found


def test_the_help_says_what_it_does() -> None:
    done = subprocess.run([COMMAND, "demo", "--help"], capture_output=True, text=True, check=True)
    assert "removes all processes, containers and files" in " ".join(done.stdout.split())
    assert sys.executable not in done.stdout
