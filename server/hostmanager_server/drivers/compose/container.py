"""A container of a compose project, as the engine tells."""

from __future__ import annotations

from dataclasses import dataclass


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
