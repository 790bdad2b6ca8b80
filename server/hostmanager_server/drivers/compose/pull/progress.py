"""What is to be pulled, and how that stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from hostmanager_server.core.spec import PullPolicy


class PullState(Enum):
    """Where the pull of one image stands."""

    WAITING = "waiting"
    PULLING = "pulling"
    UP_TO_DATE = "up_to_date"
    PULLED = "pulled"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self not in (PullState.WAITING, PullState.PULLING)


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """Bytes done of `total` (0: the engine does not say) in the present step, which `status` names."""

    id: str
    status: str
    current: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """The pull of one image. `layers` in the order in which the engine named them."""

    image: str
    instance_ids: tuple[str, ...]
    state: PullState = PullState.WAITING
    message: str = ""
    layers: tuple[LayerProgress, ...] = ()
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class PullItem:
    """An image that is to be pulled, and what its compose files say about that."""

    image: str
    instance_ids: tuple[str, ...]
    policy: PullPolicy = PullPolicy.ALWAYS
    built: bool = False  # it can be built here, so that not to get it is no failure
    platform: str = ""  # such as linux/arm64; empty: the engine's own


# Words for steps that come when all bytes of the step before are there.
_BYTES_DONE = ("Verifying Checksum", "Download complete", "Pull complete")


class PullFailedError(Exception):
    """The engine could not pull the image; the message is the engine's."""


def fold(progress: ImageProgress, message: Mapping[str, Any]) -> ImageProgress:
    """The progress with one more message of the engine. Raises PullFailedError for an error."""
    if message.get("error"):
        raise PullFailedError(str(message["error"]))
    status = str(message.get("status") or "")
    layer_id = str(message.get("id") or "")
    # The first message is about the tag, and has that for an id.
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
    if detail.get("units"):  # it counts something else than bytes, such as seconds
        return LayerProgress(layer_id, status)
    return LayerProgress(layer_id, status, int(detail.get("current") or 0), int(detail.get("total") or 0))


def _after(known: LayerProgress, layer: LayerProgress) -> LayerProgress:
    """The layer's next step; one that is over is told without numbers."""
    if layer.total or layer.status not in _BYTES_DONE:
        return layer
    return replace(layer, current=known.total, total=known.total)
