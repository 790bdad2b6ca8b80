"""Status of a compose service, computed from its definition and its containers."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.definition_hash import hash_with_containers
from hostmanager_server.drivers.compose.engine.container import Container

_HEALTH_RANK = {"healthy": 1, "starting": 2, "unhealthy": 3}  # the engine's words; the highest is the worst


def status_of(
    wanted: ServiceSpec, containers: Sequence[Container], image_id: str, *, contents_differ: bool = False
) -> ServiceStatus:
    """Return the service status in OCS's form: one container stands for all.

    The first running replica is shown, or the container that ended last. `contents_differ`: a secret or
    config of a running container has changed.
    """
    running = [container for container in containers if container.running]
    if not containers:
        return ServiceStatus(image_id=image_id)
    shown = running[0] if running else max(containers, key=lambda c: c.finished or 0.0)
    return ServiceStatus(
        image_id=image_id,
        container_id=shown.id,
        container_name=shown.name,
        running=shown.running,
        running_image=shown.image,
        exit_code=shown.exit_code,
        status=shown.status,
        health=max((container.health for container in running), key=_health_rank, default=""),
        pid=shown.pid,
        running_replicas=len(running),
        container_ids=tuple(container.id for container in containers),
        definition_changed=(
            contents_differ
            or len(running) > wanted.replicas
            or any(_definition_differs(wanted, c) for c in running)
        ),
        restarting=not running and any(c.restarting for c in containers),
        paused_replicas=sum(c.paused for c in running),
        unhealthy_replicas=sum(c.health == "unhealthy" for c in running),
    )


def _health_rank(health: str) -> int:
    return _HEALTH_RANK.get(health, 0)


def container_differs(wanted: ServiceSpec, container: Container, image_id: str) -> bool:
    """Return whether a replacement for this container would differ from the container."""
    return container.image != image_id or _definition_differs(wanted, container)


def _definition_differs(wanted: ServiceSpec, container: Container) -> bool:
    expected = wanted.config_hash
    if wanted.hashed_definition:
        expected = hash_with_containers(wanted.hashed_definition, container.shared)
    known = bool(expected and container.config_hash)
    return known and container.config_hash != expected
