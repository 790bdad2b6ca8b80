"""What the engine has of a compose service: OCS's service record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

UNKNOWN_IMAGE = "unknown"
NO_EXIT_CODE = 127  # OCS's, of a service that has no container


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Facts about a service. With several replicas those of one stand for all: of one that runs, if any."""

    image_id: str = UNKNOWN_IMAGE  # what the wanted tag means now
    container_id: str = ""  # empty: there is no container
    container_name: str = ""
    running: bool = False
    running_image: str = ""  # id of the image that the container was made from
    exit_code: int = NO_EXIT_CODE
    status: str = ""  # the engine's word
    health: str = ""  # the engine's word; empty: it has no health check
    pid: int = 0  # of the container's main process, as the host numbers it
    running_replicas: int = 0
    container_ids: tuple[str, ...] = ()  # of all replicas, in the order of their numbers
    definition_changed: bool = False  # made from another definition than the compose file has now
    restarting: bool = False  # nothing runs, and the engine is about to start it again by itself

    @property
    def outdated(self) -> bool:
        """It runs, and starting it anew would run something else."""
        return self.running and (self.running_image != self.image_id or self.definition_changed)


@dataclass(frozen=True, slots=True)
class Survey:
    """What the engine has beside the services: `new_tags` by instance id, `orphans` by container id.
    `problem`: why none of it is known; a sentence."""

    orphans: Mapping[str, Orphan] = field(default_factory=dict)
    new_tags: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A container of a managed compose file whose service is no longer in that file."""

    container_id: str
    compose_file: str
    service: str
    running: bool
    running_image: str
    exit_code: int
