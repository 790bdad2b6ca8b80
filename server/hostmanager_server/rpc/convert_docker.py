"""Conversion of compose services, orphans, pulls and container output to protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.compose import Orphan, ServiceStatus
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.rpc.ports import ImageProgress, Line, OutputLine, PullState, Source

PULL_STATE = {
    PullState.WAITING: pb.ImagePull.STATE_WAITING,
    PullState.PULLING: pb.ImagePull.STATE_PULLING,
    PullState.UP_TO_DATE: pb.ImagePull.STATE_UP_TO_DATE,
    PullState.PULLED: pb.ImagePull.STATE_PULLED,
    PullState.SKIPPED: pb.ImagePull.STATE_SKIPPED,
    PullState.FAILED: pb.ImagePull.STATE_FAILED,
    PullState.CANCELLED: pb.ImagePull.STATE_CANCELLED,
}
LOG_STREAM = {
    Source.STDOUT: pb.LOG_STREAM_STDOUT,
    Source.STDERR: pb.LOG_STREAM_STDERR,
    Source.COMBINED: pb.LOG_STREAM_COMBINED,
}


def fill_service(message: pb.ComposeService, spec: InstanceSpec, status: ServiceStatus | None) -> None:
    """Set the fields of a compose service from its definition and the engine's status."""
    if spec.service is not None:
        message.compose_file = spec.service.file
        message.service = spec.service.service
        message.image_tag = spec.service.image
        message.project = spec.service.project
        message.replicas = spec.service.replicas
    status = status or ServiceStatus()
    message.image_id = status.image_id
    message.container_found = bool(status.container_id)
    message.container_id = status.container_id
    message.container_name = status.container_name
    message.running = status.running
    message.running_image = status.running_image
    message.exit_code = status.exit_code
    message.running_replicas = status.running_replicas
    message.status = status.status
    message.health = status.health
    message.definition_changed = status.definition_changed
    message.pid = status.pid
    message.paused_replicas = status.paused_replicas
    message.unhealthy_replicas = status.unhealthy_replicas


def orphan(value: Orphan) -> pb.Orphan:
    """Return a container without a service as a message."""
    return pb.Orphan(
        container_id=value.container_id, compose_file=value.compose_file, service=value.service,
        running=value.running, container_found=True, running_image=value.running_image,
        exit_code=value.exit_code,
    )  # fmt: skip


def orphan_removal(value: Orphan, failure: str) -> pb.OrphanRemoval:
    """Return the outcome of one removal; an empty `failure` stands for success."""
    return pb.OrphanRemoval(
        container_id=value.container_id, compose_file=value.compose_file, service=value.service,
        removed=not failure, message=failure,
    )  # fmt: skip


def removals_result(removals: Iterable[pb.OrphanRemoval]) -> pb.RemoveOrphansResponse:
    """Return the last message of RemoveOrphans, with the numbers of removals and failures."""
    outcomes = [removal.removed for removal in removals]
    result = pb.RemoveOrphansResult(removed=sum(outcomes), failed=len(outcomes) - sum(outcomes))
    return pb.RemoveOrphansResponse(result=result)


def pull_message(images: Iterable[ImageProgress], time: Timestamp, *, joined: bool) -> pb.DockerPullResponse:
    """Return a message of DockerPull with the images that changed."""
    return pb.DockerPullResponse(time=time, images=[image_pull(image) for image in images], joined=joined)


def image_pull(value: ImageProgress) -> pb.ImagePull:
    """Return the progress of one image as a message."""
    return pb.ImagePull(
        image=value.image,
        state=PULL_STATE[value.state],
        message=value.message,
        layers=[
            pb.LayerPull(id=layer.id, status=layer.status, current=layer.current, total=layer.total)
            for layer in value.layers
        ],
        image_id=value.image_id,
        instance_ids=value.instance_ids,
    )


def pull_result(counts: Mapping[PullState, int]) -> pb.PullResult:
    """Return the numbers of images by outcome as a message."""
    return pb.PullResult(
        images=sum(counts.values()),
        pulled=counts[PullState.PULLED],
        up_to_date=counts[PullState.UP_TO_DATE],
        skipped=counts[PullState.SKIPPED],
        failed=counts[PullState.FAILED],
        cancelled=counts[PullState.CANCELLED],
    )


def service_log_lines(batch: Iterable[OutputLine]) -> Iterator[pb.LogLine]:
    """Yield the output lines of containers as messages."""
    for line in batch:
        yield pb.LogLine(
            text=line.text, continues=line.continues, stream=LOG_STREAM[line.source], time=line_time(line)
        )


def line_time(line: Line) -> Timestamp | None:
    """Return the time of a line, to the millisecond; None if unknown."""
    if not line.time:
        return None
    seconds, millis = divmod(round(line.time * 1000.0), 1000)
    return Timestamp(seconds=seconds, nanos=millis * 1_000_000)
