"""Queries of the engine watch: container lists, inspections and image ids."""

from __future__ import annotations

import logging
from typing import Any

import requests
from docker.errors import APIError

from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.container import (
    PROJECT_LABEL,
    Container,
    from_inspect,
    is_service_container,
)
from hostmanager_server.drivers.compose.engine.engine_errors import explain

log = logging.getLogger(__name__)


class ContainerBusyError(Exception):
    """An inspection that the engine does not answer for the moment."""


class EngineQueries:
    """The queries of one connection; every method may raise as the connection does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list_containers(self, project: str) -> list[dict[str, Any]]:
        """Return the list entries of all service containers of a project."""
        entries = self._connection.containers(all=True, filters={"label": [f"{PROJECT_LABEL}={project}"]})
        return [entry for entry in entries if is_service_container(entry.get("Labels") or {})]

    def inspect(self, container_id: str, within: float) -> Container | None:
        """Return the facts of a service container, or None if no such container exists.

        Raises ContainerBusyError when the engine does not answer within `within` s, or with an error.
        """
        try:
            return from_inspect(self._connection.inspect(container_id, within))
        except requests.ReadTimeout as error:
            raise ContainerBusyError from error
        except APIError as error:
            if error.status_code == requests.codes.not_found:
                return None
            log.debug("cannot inspect container %s: %s", container_id[:12], explain(error))
            raise ContainerBusyError from error

    def image_ids(self, tags: frozenset[str]) -> dict[str, str]:
        """Return the image id of each tag, or UNKNOWN_IMAGE."""
        return {tag: self._image_id(tag) for tag in sorted(tags)}

    def _image_id(self, tag: str) -> str:
        if not tag:
            return UNKNOWN_IMAGE
        try:
            image = self._connection.inspect_image(tag)  # type: ignore[no-untyped-call]  # its stub has no types
            return str(image["Id"])
        except APIError as error:
            # No such image, or an invalid image name, for which Podman answers 500.
            if error.is_client_error() or "invalid reference format" in str(error):
                return UNKNOWN_IMAGE
            raise
