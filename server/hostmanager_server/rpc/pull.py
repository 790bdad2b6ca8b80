"""DockerPull: the images of compose services, and how far each is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.actions import listed
from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.spec import PullPolicy
from hostmanager_server.drivers.compose.pull.progress import ImageProgress, PullItem, PullState
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import Caller, check_ids
from hostmanager_server.rpc.context import DEFAULT_HEARTBEAT, PullProgress, RpcContext, duration
from hostmanager_server.rpc.errors import FieldViolation, engine_unusable, invalid_entries, no_compose_files
from hostmanager_server.rpc.status import chosen
from hostmanager_server.state.store import Snapshot

DEFAULT_PROGRESS_TIMEOUT = 60.0
MIN_PROGRESS_TIMEOUT, MAX_PROGRESS_TIMEOUT = 1.0, 3600.0
NOTED_WITHIN = 1.0  # s for the event log to show the end of a pull; longer only where nothing is supervised
COALESCE = 0.1  # s between two messages to one client

_STATES = {
    PullState.WAITING: pb.ImagePull.STATE_WAITING,
    PullState.PULLING: pb.ImagePull.STATE_PULLING,
    PullState.UP_TO_DATE: pb.ImagePull.STATE_UP_TO_DATE,
    PullState.PULLED: pb.ImagePull.STATE_PULLED,
    PullState.SKIPPED: pb.ImagePull.STATE_SKIPPED,
    PullState.FAILED: pb.ImagePull.STATE_FAILED,
    PullState.CANCELLED: pb.ImagePull.STATE_CANCELLED,
}
_WORDS = {
    PullState.PULLED: "pulled",
    PullState.UP_TO_DATE: "up to date",
    PullState.SKIPPED: "skipped",
    PullState.CANCELLED: "cancelled",
    PullState.FAILED: "failed",
}
# When several services use one image, the most eager one decides.
_EAGERNESS = (PullPolicy.ALWAYS, PullPolicy.MISSING, PullPolicy.BUILD, PullPolicy.NEVER)


class PullRpcs:
    def __init__(self, context: RpcContext) -> None:
        self._context = context

    async def docker_pull(
        self, request: pb.DockerPullRequest, caller: Caller
    ) -> AsyncIterator[pb.DockerPullResponse]:
        context, engine = self._context, self._context.engine
        if engine is None:
            raise no_compose_files()
        timeout = DEFAULT_PROGRESS_TIMEOUT
        if request.HasField("progress_timeout"):
            timeout = duration(
                request.progress_timeout, "progress_timeout", MIN_PROGRESS_TIMEOUT, MAX_PROGRESS_TIMEOUT
            )
        snapshot = context.store.snapshot()
        check_ids(request.instance_ids, "instance_ids", snapshot.instances)
        images = images_to_pull(snapshot, list(request.instance_ids), request.new_only)
        detach = request.detach
        del request, snapshot  # they are not to live as long as the stream
        if not engine.pulling and (problem := await context.engine_problem()):
            raise engine_unusable(problem)
        with caller.quotas.engine_streams.hold(caller.client):
            pull, joined = engine.join_pull(
                images, detach=detach, progress_timeout=timeout, ended=self._note_end
            )
            try:
                if not joined:
                    message = f"pull of {listed([image.image for image in images]) or 'nothing'}"
                    context.supervisor.log(LogEntry(EntryKind.REQUEST, "DockerPull", message, context.now()))
                async for response in context.hub.until_closed(self._follow(pull, joined)):
                    yield response
            finally:
                pull.leave()

    def _note_end(self, images: Sequence[ImageProgress]) -> None:
        """Tell the event log, and wait until it can be read there. On a thread of the pull's, as it may end
        when nobody follows it."""
        severity = Severity.INFO
        if any(image.state is PullState.FAILED for image in images):
            severity = Severity.ERROR
        entry = LogEntry(
            EntryKind.REQUEST, "PullEnded", _outcome(images), self._context.now(), severity=severity
        )
        with suppress(TimeoutError):
            self._context.supervisor.log(entry).result(NOTED_WITHIN)

    async def _follow(self, pull: PullProgress, joined: bool) -> AsyncIterator[pb.DockerPullResponse]:
        """What changes, COALESCE s apart at least, and a heartbeat when nothing does; the result at last."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(changed.set)

        pull.subscribe(wake)
        try:
            version = -1
            while True:
                changed.clear()
                changes = pull.changes(version)
                version = changes.version
                response = pb.DockerPullResponse(
                    time=convert.timestamp(self._context.now()),
                    images=[_image(image) for image in changes.images],
                    joined=joined,
                )
                if changes.over:
                    response.result.CopyFrom(_result(pull.counts()))
                    yield response
                    return
                yield response
                await asyncio.sleep(COALESCE)
                with suppress(TimeoutError):
                    async with asyncio.timeout(DEFAULT_HEARTBEAT):
                        await changed.wait()
        finally:
            pull.unsubscribe(wake)


def images_to_pull(snapshot: Snapshot, instance_ids: list[str], new_only: bool) -> list[PullItem]:
    """The images of these instances (all when none are named), each once, with what is to be heeded. Raises
    RpcError for ids that are not known, or of no compose service."""
    bad: list[FieldViolation] = []
    found: dict[str, PullItem] = {}
    every = chosen(snapshot, instance_ids)
    for index, instance_id in enumerate(instance_ids or sorted(every)):
        instance = snapshot.instances[instance_id].instance
        service = instance.spec.service
        if service is None:
            if instance_ids:
                text = f"{instance_id!r} has no compose service, and so no image"
                bad.append(FieldViolation(f"instance_ids[{index}]", text))
            continue
        status = instance.observed.service
        if new_only and status is not None and status.image_id != UNKNOWN_IMAGE:
            continue
        known = found.get(service.image)
        if known and instance_id in known.instance_ids:
            continue  # it was named twice
        ids = (*known.instance_ids, instance_id) if known else (instance_id,)
        policies = (service.pull_policy, *((known.policy,) if known else ()))
        policy = min(policies, key=_EAGERNESS.index)
        built = service.built and (known is None or known.built)
        platform = known.platform if known else service.platform
        found[service.image] = PullItem(service.image, ids, policy, built, platform)
    if bad:
        raise invalid_entries(bad)
    return list(found.values())


def _outcome(images: Sequence[ImageProgress]) -> str:
    """`pull ended: 1 pulled, 1 failed: lab/agent:2: no such image`."""
    counts = Counter(image.state for image in images)
    said = ", ".join(f"{counts[state]} {_WORDS[state]}" for state in _WORDS if counts[state])
    failed = [f"{image.image}: {image.message}" for image in images if image.state is PullState.FAILED]
    return ": ".join(("pull ended", said or "nothing to pull", *(["; ".join(failed)] if failed else [])))


def _image(image: ImageProgress) -> pb.ImagePull:
    return pb.ImagePull(
        image=image.image,
        state=_STATES[image.state],
        message=image.message,
        layers=[
            pb.LayerPull(id=layer.id, status=layer.status, current=layer.current, total=layer.total)
            for layer in image.layers
        ],
        image_id=image.image_id,
        instance_ids=image.instance_ids,
    )


def _result(counts: Mapping[PullState, int]) -> pb.PullResult:
    return pb.PullResult(
        images=sum(counts.values()),
        pulled=counts[PullState.PULLED],
        up_to_date=counts[PullState.UP_TO_DATE],
        skipped=counts[PullState.SKIPPED],
        failed=counts[PullState.FAILED],
        cancelled=counts[PullState.CANCELLED],
    )
