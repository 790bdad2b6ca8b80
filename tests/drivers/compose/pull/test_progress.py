"""Tests of pull progress, folded from the engine's messages."""

from __future__ import annotations

from typing import Any

import pytest
from hostmanager_server.drivers.compose.pull.progress import (
    ImageProgress,
    LayerProgress,
    PullFailedError,
    PullState,
    fold,
)


def folded(*messages: dict[str, Any]) -> ImageProgress:
    progress = ImageProgress("agent:2", ("a",), PullState.PULLING)
    for message in messages:
        progress = fold(progress, message)
    return progress


def test_layers_keep_the_order_of_their_first_messages() -> None:
    progress = folded(
        {"status": "Pulling from lab/agent", "id": "2"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbb"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaa"},
        {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "bbb"},
    )
    assert progress.layers == (
        LayerProgress("bbb", "Downloading", 5, 10),
        LayerProgress("aaa", "Pulling fs layer"),
    )


def test_a_finished_layer_has_all_its_bytes() -> None:
    progress = folded(
        {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "aaa"},
        {"status": "Pull complete", "progressDetail": {}, "id": "aaa"},
        {"status": "Digest: sha256:1"},
        {"status": "Status: Downloaded newer image for agent:2"},
    )
    assert progress.layers == (LayerProgress("aaa", "Pull complete", 10, 10),)
    assert progress.message == "Status: Downloaded newer image for agent:2"


def test_a_layer_being_verified_has_all_its_bytes() -> None:
    progress = folded(
        {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "aaa"},
        {"status": "Verifying Checksum", "progressDetail": {}, "id": "aaa"},
    )
    assert progress.layers == (LayerProgress("aaa", "Verifying Checksum", 10, 10),)


def test_a_retried_layer_starts_from_zero() -> None:
    progress = folded(
        {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "aaa"},
        {"status": "Retrying in 5 seconds", "progressDetail": {}, "id": "aaa"},
    )
    assert progress.layers == (LayerProgress("aaa", "Retrying in 5 seconds"),)


def test_progress_in_other_units_has_no_bytes() -> None:
    progress = folded(
        {"status": "Download complete", "progressDetail": {"current": 9, "total": 9}, "id": "aaa"},
        {"status": "Extracting", "progressDetail": {"current": 3, "units": "s"}, "id": "aaa"},
    )
    assert progress.layers == (LayerProgress("aaa", "Extracting"),)


def test_an_error_of_the_engine_is_a_failure_with_its_message() -> None:
    with pytest.raises(PullFailedError, match="manifest unknown"):
        folded({"errorDetail": {"message": "manifest unknown"}, "error": "manifest unknown"})
