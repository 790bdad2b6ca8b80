"""The peer on compose services: the way in which the HostManager agent of OCS asks.

Two seconds after each answer it asks again: `docker compose config` for the services, `docker inspect` for
their images, `docker compose ps -q` for the containers, and a `docker inspect` for each of them. Run as a
program, it prints one line of JSON for each complete answer. In its favour, it knows nothing but that, and
reads what docker prints as JSON, where OCS uses a YAML parser.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.compose_services import Services
from benchmarks.managers import PATIENCE

NAME = "OCS's way"
REST = 2.0  # s from an answer to the next question
_SERVICE = "com.docker.compose.service"


@dataclass(frozen=True, slots=True)
class Answer:
    """Which services run, and the moment (s, CLOCK_MONOTONIC) when that was known."""

    moment: float
    running: dict[str, bool]


class Asking:
    """A process that asks about these services again and again; with `keep_up` it also starts, as OCS does,
    what does not run."""

    def __init__(self, services: Services, *, keep_up: bool = False) -> None:
        command = [sys.executable, "-m", "benchmarks.compose_peer", str(services.project.file)]
        self._process = subprocess.Popen(
            [*command, "keep-up"] if keep_up else command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            text=True, cwd=Path(__file__).parents[1], env=services.engine.environment,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def next(self) -> Answer:
        """The next complete answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the asking ended with code {self._process.wait()}: see its message above")
        return Answer(**json.loads(line))

    def until(self, holds: Callable[[Mapping[str, bool]], bool], what: str) -> float:
        """The moment of the first answer, of those that are yet to come, of which this holds."""
        deadline = time.monotonic() + PATIENCE
        while not holds((answer := self.next()).running):
            if answer.moment > deadline:
                raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
        return answer.moment

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdout is not None
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()


def _ask(file: str) -> Answer:
    config = json.loads(_docker("compose", "-f", file, "config", "--format", "json"))
    running = dict.fromkeys(config["services"], False)
    _docker("inspect", *sorted({service["image"] for service in config["services"].values()}))
    for container in _docker("compose", "-f", file, "ps", "-q").split():
        (found,) = json.loads(_docker("inspect", container))
        running[found["Config"]["Labels"][_SERVICE]] = found["State"]["Running"]
    return Answer(time.monotonic(), running)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def _start(file: str, service: str) -> subprocess.Popen[bytes]:
    command = ["docker", "compose", "-f", file, "up", "--remove-orphans", "-d", service]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)  # its progress


def main(arguments: Sequence[str]) -> None:
    file, *options = arguments
    starts: dict[str, subprocess.Popen[bytes]] = {}
    while True:
        answer = _ask(file)
        print(json.dumps({"moment": answer.moment, "running": answer.running}), flush=True)
        starts = {service: start for service, start in starts.items() if start.poll() is None}
        if "keep-up" in options:
            for service, runs in answer.running.items():
                if not runs and service not in starts:
                    starts[service] = _start(file, service)
        time.sleep(REST)


if __name__ == "__main__":
    main(sys.argv[1:])
