"""Status of a compose service, computed from its definition and its containers."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.engine.container import Container


def status_of(wanted: ServiceSpec, containers: Sequence[Container], image_id: str) -> ServiceStatus:
    """Return the service status in OCS's form: one container stands for all.

    The first running replica is shown, or the container that ended last.
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
        health=shown.health,
        pid=shown.pid,
        running_replicas=len(running),
        container_ids=tuple(container.id for container in containers),
        definition_changed=any(_definition_differs(wanted, c) for c in running),
        restarting=not running and any(c.restarting for c in containers),
    )


def container_differs(wanted: ServiceSpec, container: Container, image_id: str) -> bool:
    """Return whether a replacement for this container would differ from the container."""
    return container.image != image_id or _definition_differs(wanted, container)


def _definition_differs(wanted: ServiceSpec, container: Container) -> bool:
    known = bool(wanted.config_hash and container.config_hash)
    return known and container.config_hash != wanted.config_hash
