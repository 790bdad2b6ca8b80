"""Containers of compose projects, from the documents of the Docker Engine API."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hostmanager.values import dataclass

PROJECT_LABEL = "com.docker.compose.project"
_SERVICE_LABEL = "com.docker.compose.service"
_NUMBER_LABEL = "com.docker.compose.container-number"
_ONEOFF_LABEL = "com.docker.compose.oneoff"
_HASH_LABEL = "com.docker.compose.config-hash"
_FILES_LABEL = "com.docker.compose.project.config_files"
_DIRECTORY_LABEL = "com.docker.compose.project.working_dir"
_KILLED = 137  # exit code after SIGKILL
_EXISTS_ALREADY = re.compile(r"(already|file) exists")


@dataclass(frozen=True, slots=True)
class Container:
    """The known facts of one container.

    Times are seconds since 1970; None means never.
    """

    id: str
    name: str  # without the leading slash
    project: str
    service: str
    number: int  # number of the replica, from 1
    config_files: tuple[str, ...]  # the compose files of its definition, absolute
    config_hash: str  # hash of its definition
    image: str  # id of its image
    running: bool
    status: str  # the engine's word: created, running, paused, restarting, removing, exited, dead
    exit_code: int
    started: float | None
    finished: float | None
    pid: int  # main process, in the host's pid namespace; 0 when not running
    health: str  # starting, healthy, unhealthy; empty without a health check
    tty: bool  # a terminal: stdout and stderr are one stream
    error: str = ""  # why the engine's last attempt to start the container failed
    oom_killed: bool = False  # the last run ended, and lack of memory killed one of its processes
    created: float | None = None
    stop_timeout: float | None = None  # s from the stop signal to KILL, negative: without end; None: 10 s
    # Namespaces and volumes of other containers: compose's key and the value, which names the containers.
    shared: tuple[tuple[str, str | tuple[str, ...]], ...] = ()

    @property
    def unstartable(self) -> bool:
        """Whether the container can never start again and needs a replacement.

        When dockerd dies while it starts a container, a task of containerd or its directory may stay behind
        and block every later start of the same id (observed with dockerd 20.10 killed during `up`; moby issue
        50040).
        """
        return not self.running and self.id in self.error and bool(_EXISTS_ALREADY.search(self.error))

    @property
    def restarting(self) -> bool:
        """Whether the engine is about to restart the ended container (`restart`)."""
        return self.status == "restarting"

    @property
    def paused(self) -> bool:
        """Whether the engine has frozen the processes of the running container."""
        return self.running and self.status == "paused"


def is_service_container(labels: Mapping[str, str]) -> bool:
    """Return whether these labels belong to a container of a service.

    Containers of `compose run` are no replicas.
    """
    return (
        bool(labels.get(PROJECT_LABEL))
        and bool(labels.get(_SERVICE_LABEL))
        and labels.get(_ONEOFF_LABEL, "").lower() != "true"
    )


def from_inspect(document: Mapping[str, Any]) -> Container | None:
    """Return the container in the answer to `GET /containers/{id}/json`.

    Returns None for a container outside compose services.

    A container that the engine is about to restart counts as not running, although the engine says "Running":
    no process exists. Only running containers have a health.

    The engine (20.10) keeps OOMKilled over later runs: the flag counts only with the exit code of a KILL.
    """
    config = document.get("Config") or {}
    labels = config.get("Labels") or {}
    if not document.get("Id") or not is_service_container(labels):
        return None
    state = document.get("State") or {}
    restarting = bool(state.get("Restarting"))
    running = bool(state.get("Running")) and not restarting
    exit_code = int(state.get("ExitCode") or 0)
    stop_timeout = config.get("StopTimeout")
    return Container(
        id=document["Id"],
        name=(document.get("Name") or "").removeprefix("/"),
        project=labels[PROJECT_LABEL],
        service=labels[_SERVICE_LABEL],
        number=_number(labels.get(_NUMBER_LABEL, "")),
        config_files=_config_files(labels),
        config_hash=labels.get(_HASH_LABEL, ""),
        image=document.get("Image") or "",
        running=running,
        status=state.get("Status") or ("restarting" if restarting else "running" if running else "exited"),
        exit_code=exit_code,
        started=_time(state.get("StartedAt")),
        finished=_time(state.get("FinishedAt")),
        pid=int(state.get("Pid") or 0) if running else 0,
        health=_health(state) if running else "",
        tty=bool(config.get("Tty")),
        error=state.get("Error") or "",
        oom_killed=bool(state.get("OOMKilled")) and not running and exit_code == _KILLED,
        created=_time(document.get("Created")),
        stop_timeout=None if stop_timeout is None else float(stop_timeout),
        shared=_shared(document.get("HostConfig") or {}),
    )


def from_list(entry: Mapping[str, Any]) -> Container | None:
    """Return the container in an entry of `GET /containers/json`.

    Returns None for a container outside compose services.

    The entry has no times, pid or health, and the exit code is 0. The engine answers this request even for a
    container that blocks inspections.
    """
    names = entry.get("Names") or [""]
    running = entry.get("State") in ("running", "paused")
    return from_inspect(
        {
            "Id": entry.get("Id"),
            "Name": names[0],
            "Image": entry.get("ImageID"),
            "State": {"Status": entry.get("State"), "Running": running},
            "Config": {"Labels": entry.get("Labels")},
        }
    )


def _shared(host_config: Mapping[str, Any]) -> tuple[tuple[str, str | tuple[str, ...]], ...]:
    found: list[tuple[str, str | tuple[str, ...]]] = []
    for key, field in (("network_mode", "NetworkMode"), ("ipc", "IpcMode"), ("pid", "PidMode")):
        if (value := str(host_config.get(field) or "")).startswith("container:"):
            found.append((key, value))
    if volumes := host_config.get("VolumesFrom"):
        found.append(("volumes_from", tuple(map(str, volumes))))
    return tuple(found)


def _health(state: Mapping[str, Any]) -> str:
    status = (state.get("Health") or {}).get("Status") or ""
    return "" if status == "none" else status


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 1


def _config_files(labels: Mapping[str, str]) -> tuple[str, ...]:
    # Compose v1 writes the names as given on its command line, relative to the project directory.
    directory = labels.get(_DIRECTORY_LABEL, "")
    names = labels.get(_FILES_LABEL, "").split(",")
    return tuple(os.path.normpath(os.path.join(directory, name.strip())) for name in names if name.strip())


def _time(text: object) -> float | None:
    """Convert an RFC 3339 time to seconds since 1970.

    Go's zero time means never, and becomes None.
    """
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.year <= 1:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
