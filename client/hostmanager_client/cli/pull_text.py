"""Lines of text about the images of a pull."""

from __future__ import annotations

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.cli.escape import one_line
from hostmanager_client.words import pull_word


def image_line(image: pb.ImagePull) -> str:
    """Return the line of an image: `lab/agent:2 (data1, data2): failed: no such image`."""
    users = f" ({', '.join(image.instance_ids)})" if image.instance_ids else ""
    explained = (pb.ImagePull.STATE_SKIPPED, pb.ImagePull.STATE_FAILED)
    why = f": {image.message}" if image.message and image.state in explained else ""
    return one_line(f"{image.image}{users}: {pull_word(image.state)}{why}")


def summary(result: pb.PullResult) -> str:
    """Return the summary of a pull: `3 images: 1 pulled, 2 up to date`."""
    counts = (
        (result.pulled, "pulled"), (result.up_to_date, "up to date"), (result.skipped, "skipped"),
        (result.failed, "failed"), (result.cancelled, "not finished"),
    )  # fmt: skip
    what = ", ".join(f"{count} {word}" for count, word in counts if count) or "nothing to pull"
    return f"{result.images} image{'s' if result.images != 1 else ''}: {what}"
