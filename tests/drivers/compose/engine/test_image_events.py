"""Tests of the selection of image events."""

from __future__ import annotations

import pytest
from hostmanager_server.drivers.compose.engine.image_events import concerns

HELD = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def event(action: str, actor: str, name: str = "") -> dict[str, object]:
    attributes = {"name": name} if name else {}
    return {"Type": "image", "Action": action, "Actor": {"ID": actor, "Attributes": attributes}}


@pytest.mark.parametrize(
    "received",
    [
        event("tag", OTHER, "lab/agent:1"),
        event("tag", OTHER, "docker.io/lab/agent:1"),
        event("pull", "lab/agent:1", "lab/agent"),
        event("untag", HELD, HELD),
        event("delete", HELD.removeprefix("sha256:")),
        event("load", OTHER, OTHER),
        event("tag", ""),
    ],
    ids=str,
)
def test_an_event_of_a_watched_image_counts(received: dict[str, object]) -> None:
    assert concerns(received, ["lab/agent:1"], [HELD])


@pytest.mark.parametrize(
    "received",
    [
        event("tag", OTHER, "lab/agents:1"),
        event("tag", OTHER, "registry:5000/lab/agent:1"),
        event("pull", "busybox:latest", "busybox"),
        event("untag", OTHER, OTHER),
        event("delete", OTHER),
        event("import", OTHER, OTHER),
    ],
    ids=str,
)
def test_an_event_of_another_image_does_not_count(received: dict[str, object]) -> None:
    assert not concerns(received, ["lab/agent:1"], [HELD])


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("redis", "docker.io/library/redis:latest"),
        ("registry:5000/agent", "registry:5000/agent:latest"),
        ("agent@sha256:" + "ef" * 32, "agent:1"),
        ("localhost/agent:1", "agent:1"),
        ("0123abcd", "agent:1"),  # may be the id of an image
    ],
)
def test_a_tag_has_several_spellings(tag: str, name: str) -> None:
    assert concerns(event("tag", OTHER, name), [tag], [HELD])


def test_without_tags_no_event_counts() -> None:
    assert not concerns(event("load", OTHER), [""], [])
