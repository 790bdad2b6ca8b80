"""Survey of orphaned containers and of image tags that the engine does not have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from hostmanager_server.core.catalog import Project
from hostmanager_server.core.compose import UNKNOWN_IMAGE, Orphan, Survey
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.followed_service import FollowedService


def take_survey(
    projects: Mapping[str, Sequence[Project]],
    services: Iterable[FollowedService],
    containers: Iterable[Container],
    image_ids: Mapping[str, str],
) -> Survey:
    """Return the orphans among the containers, and the wanted tags without an image.

    `projects` is keyed by project name, `image_ids` by tag.
    """
    orphans = {}
    for container in containers:
        owner = _owner_of_orphan(projects.get(container.project, ()), container)
        if owner is not None:
            orphans[container.id] = Orphan(
                container_id=container.id,
                compose_file=owner,
                service=container.service,
                running=container.running,
                running_image=container.image,
                exit_code=container.exit_code,
            )
    new_tags = {
        service.spec.instance_id: service.wanted.image
        for service in services
        if not service.wanted.built and image_ids.get(service.wanted.image, UNKNOWN_IMAGE) == UNKNOWN_IMAGE
    }
    return Survey(orphans, new_tags)


def _owner_of_orphan(projects: Sequence[Project], container: Container) -> str | None:
    """Return the compose file of an orphaned container; None for others.

    Compose treats two folders of the same name as one project. A container made from files that are not
    managed belongs to the other folder, and is no orphan.
    """
    if any(container.service in project.services for project in projects):
        return None
    for project in projects:
        for file in project.files:
            if not container.config_files or any(_same_file(file, other) for other in container.config_files):
                return file
    return None


def _same_file(one: str, other: str) -> bool:
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False
