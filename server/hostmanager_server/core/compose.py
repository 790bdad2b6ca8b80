"""Compose services, orphans and new tags, as reported by the Docker engine."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager.values import dataclass, field

UNKNOWN_IMAGE = "unknown"
NO_EXIT_CODE = 127  # as in OCS, for a service without a container


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The engine's status of a compose service; OCS's service record.

    With several replicas, the fields describe one replica: a running replica if the service has any.
    """

    image_id: str = UNKNOWN_IMAGE  # image that the wanted tag names now
    container_id: str = ""  # empty: the service has no container
    container_name: str = ""
    running: bool = False
    running_image: str = ""  # id of the image of the container
    exit_code: int = NO_EXIT_CODE
    status: str = ""  # in the engine's words
    health: str = ""  # the worst health of the running replicas; empty: no health check
    pid: int = 0  # of the container's main process, in the host's PID namespace
    running_replicas: int = 0
    container_ids: tuple[str, ...] = ()  # of all replicas, ordered by replica number
    definition_changed: bool = False  # the compose file changed after the container was created
    restarting: bool = False  # no replica runs, and the engine is about to restart one
    paused_replicas: int = 0  # running replicas whose processes the engine has frozen
    unhealthy_replicas: int = 0  # running replicas with a failing health check

    @property
    def outdated(self) -> bool:
        """True if the service runs, and a restart would change its image or definition."""
        return self.running and (self.running_image != self.image_id or self.definition_changed)


@dataclass(frozen=True, slots=True)
class Survey:
    """The engine's containers and tags that belong to no managed service.

    `orphans` has container ids as keys, `new_tags` has instance ids. `problem` says why both are unknown, or
    is empty.
    """

    orphans: Mapping[str, Orphan] = field(default_factory=dict)
    new_tags: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A container of a service that its managed compose file no longer defines."""

    container_id: str
    compose_file: str
    service: str
    running: bool
    running_image: str
    exit_code: int
