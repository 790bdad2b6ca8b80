"""Removes orphaned containers through the Docker Engine."""

from __future__ import annotations

import math
from collections.abc import Callable

import requests
from docker.errors import APIError, DockerException, NotFound

from hostmanager_server.drivers.compose.connection import Connection, explain

_UNDER_WAY = "is already in progress"  # of the removal, by somebody else


def remove_container(connect: Callable[[], Connection], container_id: str, stop_timeout: float) -> str:
    """Stop a container, kill it after `stop_timeout` s (0: at once), and remove it; why it is still there, or
    the empty string. Blocks until it is done."""
    try:
        connection = connect()
        try:
            return _remove(connection, container_id, stop_timeout)
        finally:
            connection.close()
    except (DockerException, requests.RequestException, OSError) as error:
        return explain(error)


def _remove(connection: Connection, container_id: str, stop_timeout: float) -> str:
    try:
        # The engine counts whole seconds, and takes 0 for "kill at once".
        connection.stop(container_id, timeout=math.ceil(stop_timeout))
        connection.remove_container(container_id)
    except NotFound:
        return ""  # somebody else was faster
    except APIError as error:
        if _UNDER_WAY in str(error):
            return ""
        raise
    return ""
