"""Polling of compose services as OCS's HostManager agent does, as the peer of the compose benchmarks.

Each round calls `docker compose config` for the services, `docker inspect` for their images,
`docker compose ps -q` for the containers, and `docker inspect` for each container. The next round starts two
seconds after the end of a round. As a program, the module prints one line of JSON after each round. The peer
has an advantage over OCS: it does no other work, and parses JSON where OCS parses YAML.
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
REST = 2.0  # s between two rounds
_SERVICE = "com.docker.compose.service"


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """The services that run, and the time (s, CLOCK_MONOTONIC) of the end of the round."""

    moment: float
    running: dict[str, bool]


class Polling:
    """A process that polls services, and with `keep_up` starts those that do not run, as OCS does."""

    def __init__(self, services: Services, *, keep_up: bool = False) -> None:
        command = [sys.executable, "-m", "benchmarks.compose_peer", str(services.project.file)]
        self._process = subprocess.Popen(
            [*command, "keep-up"] if keep_up else command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            text=True, cwd=Path(__file__).parents[1], env=services.engine.environment,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The pid of the polling process."""
        return self._process.pid

    def next(self) -> PeerAnswer:
        """Return the result of the next round."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the polling ended with code {self._process.wait()}: see its message above")
        return PeerAnswer(**json.loads(line))

    def until(self, holds: Callable[[Mapping[str, bool]], bool], what: str) -> float:
        """Return the time of the first later answer for which `holds`. Raises TimeoutError."""
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


def _poll(file: str) -> PeerAnswer:
    config = json.loads(_docker("compose", "-f", file, "config", "--format", "json"))
    running = dict.fromkeys(config["services"], False)
    _docker("inspect", *sorted({service["image"] for service in config["services"].values()}))
    for container in _docker("compose", "-f", file, "ps", "-q").split():
        (found,) = json.loads(_docker("inspect", container))
        running[found["Config"]["Labels"][_SERVICE]] = found["State"]["Running"]
    return PeerAnswer(time.monotonic(), running)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def _start(file: str, service: str) -> subprocess.Popen[bytes]:
    command = ["docker", "compose", "-f", file, "up", "--remove-orphans", "-d", service]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)  # drops progress messages


def main(arguments: Sequence[str]) -> None:
    """Poll until the process is terminated. Arguments: the compose file, and optionally `keep-up`."""
    file, *options = arguments
    starts: dict[str, subprocess.Popen[bytes]] = {}
    while True:
        answer = _poll(file)
        print(json.dumps({"moment": answer.moment, "running": answer.running}), flush=True)
        starts = {service: start for service, start in starts.items() if start.poll() is None}
        if "keep-up" in options:
            for service, runs in answer.running.items():
                if not runs and service not in starts:
                    starts[service] = _start(file, service)
        time.sleep(REST)


if __name__ == "__main__":
    main(sys.argv[1:])
