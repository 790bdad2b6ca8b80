"""Progress of image pulls, folded from the engine's messages."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from hostmanager.values import dataclass, replace

from hostmanager_server.core.spec import PullPolicy


class PullState(Enum):
    """The state of the pull of one image."""

    WAITING = "waiting"
    PULLING = "pulling"
    UP_TO_DATE = "up_to_date"
    PULLED = "pulled"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether the pull of the image has ended."""
        return self not in (PullState.WAITING, PullState.PULLING)


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """The present step of a layer: `current` of `total` bytes (0: unknown)."""

    id: str
    status: str
    current: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """The pull of one image; `layers` in the order of the engine's messages."""

    image: str
    instance_ids: tuple[str, ...]
    state: PullState = PullState.WAITING
    message: str = ""
    layers: tuple[LayerProgress, ...] = ()
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class PullItem:
    """An image to pull, with the settings of its compose file."""

    image: str
    instance_ids: tuple[str, ...]
    policy: PullPolicy = PullPolicy.ALWAYS
    built: bool = False  # the image can be built here, so a failed pull is no failure
    platform: str = ""  # such as linux/arm64; empty: the engine's platform


# Steps that begin when all bytes of the step before are done.
_BYTES_DONE = ("Verifying Checksum", "Download complete", "Pull complete")


class PullFailedError(Exception):
    """A pull that failed; the message is the engine's."""


def fold(progress: ImageProgress, message: Mapping[str, Any]) -> ImageProgress:
    """Return the progress after one more message of the engine.

    Raises PullFailedError for an error message.
    """
    if message.get("error"):
        raise PullFailedError(str(message["error"]))
    status = str(message.get("status") or "")
    layer_id = str(message.get("id") or "")
    # The first message is about the tag, and has the tag as its id.
    if not layer_id or status.startswith("Pulling from"):
        return replace(progress, message=status or progress.message)
    layer = _layer(layer_id, status, message.get("progressDetail") or {})
    layers = list(progress.layers)
    for index, known in enumerate(layers):
        if known.id == layer_id:
            layers[index] = _after(known, layer)
            break
    else:
        layers.append(layer)
    return replace(progress, layers=tuple(layers), message=status)


def _layer(layer_id: str, status: str, detail: Mapping[str, Any]) -> LayerProgress:
    if detail.get("units"):  # the step counts something other than bytes, such as seconds
        return LayerProgress(layer_id, status)
    return LayerProgress(layer_id, status, int(detail.get("current") or 0), int(detail.get("total") or 0))


def _after(known: LayerProgress, layer: LayerProgress) -> LayerProgress:
    """Return the layer's next step; a finished step keeps the known total."""
    if layer.total or layer.status not in _BYTES_DONE:
        return layer
    return replace(layer, current=known.total, total=known.total)
