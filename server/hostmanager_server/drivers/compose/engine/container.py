"""A container of a compose project, as the engine tells."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

PROJECT_LABEL = "com.docker.compose.project"
_SERVICE_LABEL = "com.docker.compose.service"
_NUMBER_LABEL = "com.docker.compose.container-number"
_ONEOFF_LABEL = "com.docker.compose.oneoff"
_HASH_LABEL = "com.docker.compose.config-hash"
_FILES_LABEL = "com.docker.compose.project.config_files"
_DIRECTORY_LABEL = "com.docker.compose.project.working_dir"
_EXISTS_ALREADY = re.compile(r"(already|file) exists")


@dataclass(frozen=True, slots=True)
class Container:
    """What is known of one container. Times are seconds since 1970, None: never."""

    id: str
    name: str  # without the leading slash
    project: str
    service: str
    number: int  # which of the service's replicas, from 1
    config_files: tuple[str, ...]  # the compose files it was made from, absolute
    config_hash: str  # of the definition it was made from
    image: str  # id of the image that it runs
    running: bool
    status: str  # the engine's word: created, running, paused, restarting, removing, exited, dead
    exit_code: int
    started: float | None
    finished: float | None
    pid: int  # of its main process, as the host numbers it; 0 when it does not run
    health: str  # starting, healthy, unhealthy; empty when it has no health check
    tty: bool  # its output is one stream
    error: str = ""  # why the engine could not start it when it last tried

    @property
    def unstartable(self) -> bool:
        """Only a container made anew, under another id, will run. What an engine left behind that died while
        it started this one is in its way for good: a task of containerd, or the directory of one (seen of
        dockerd 20.10 killed during `up`; moby issue 50040)."""
        return not self.running and self.id in self.error and bool(_EXISTS_ALREADY.search(self.error))

    @property
    def restarting(self) -> bool:
        """It has ended, and the engine is about to start it again by itself (its `restart` policy)."""
        return self.status == "restarting"


def is_of_compose(labels: Mapping[str, str]) -> bool:
    """Whether these are the labels of a service's container; those of `compose run` are nobody's replica."""
    return (
        bool(labels.get(PROJECT_LABEL))
        and bool(labels.get(_SERVICE_LABEL))
        and labels.get(_ONEOFF_LABEL, "").lower() != "true"
    )


def from_inspect(document: Mapping[str, Any]) -> Container | None:
    """The container that the answer to `GET /containers/{id}/json` describes; None when it is no container
    of a compose service.

    A container that the engine is about to restart counts as not running, though the engine calls it so:
    there is no process. Health is told only of what runs.
    """
    config = document.get("Config") or {}
    labels = config.get("Labels") or {}
    if not document.get("Id") or not is_of_compose(labels):
        return None
    state = document.get("State") or {}
    restarting = bool(state.get("Restarting"))
    running = bool(state.get("Running")) and not restarting
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
        exit_code=int(state.get("ExitCode") or 0),
        started=_time(state.get("StartedAt")),
        finished=_time(state.get("FinishedAt")),
        pid=int(state.get("Pid") or 0) if running else 0,
        health=_health(state) if running else "",
        tty=bool(config.get("Tty")),
        error=state.get("Error") or "",
    )


def from_list(entry: Mapping[str, Any]) -> Container | None:
    """The container that an entry of the answer to `GET /containers/json` describes, as far as it does:
    without times, pid or health, and with exit code 0. None when it is no container of a compose service.

    The engine answers it even of a container that it is stuck with, where an inspection waits for ever.
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


def _health(state: Mapping[str, Any]) -> str:
    status = (state.get("Health") or {}).get("Status") or ""
    return "" if status == "none" else status


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 1


def _config_files(labels: Mapping[str, str]) -> tuple[str, ...]:
    # Compose v1 writes the names as they were given, relative to the directory of the project.
    directory = labels.get(_DIRECTORY_LABEL, "")
    names = labels.get(_FILES_LABEL, "").split(",")
    return tuple(os.path.normpath(os.path.join(directory, name.strip())) for name in names if name.strip())


def _time(text: object) -> float | None:
    """Seconds since 1970 of a time in RFC 3339; None for Go's zero time, which stands for never."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.year <= 1:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
