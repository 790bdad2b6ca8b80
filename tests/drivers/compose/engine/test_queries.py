"""Tests of the queries of image ids."""

from __future__ import annotations

from typing import Any, cast

import pytest
import requests
from docker.errors import APIError
from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.queries import EngineQueries


class Refusing:
    """A connection that answers every image inspection with an error."""

    def __init__(self, status: int, message: str) -> None:
        self._status = status
        self._message = message

    def inspect_image(self, tag: str) -> dict[str, Any]:
        response = requests.Response()
        response.status_code = self._status
        raise APIError(self._message, response, self._message)


def image_ids(status: int, message: str) -> dict[str, str]:
    return EngineQueries(cast("Connection", Refusing(status, message))).image_ids(frozenset({"agent:1"}))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "no such image"),
        (400, "invalid reference format"),
        (500, "normalizing image: normalizing name for compat API: invalid reference format"),  # Podman
    ],
)
def test_a_missing_or_misspelt_image_is_unknown(status: int, message: str) -> None:
    assert image_ids(status, message) == {"agent:1": UNKNOWN_IMAGE}


def test_an_error_of_the_engine_is_no_missing_image() -> None:
    with pytest.raises(APIError):
        image_ids(500, "the disk is full")
