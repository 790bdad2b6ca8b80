"""DockerPull and RemoveOrphans: images in, containers out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.actions import Kind, Note
from hostmanager_server.core.service import UNKNOWN_IMAGE, Orphan
from hostmanager_server.core.spec import PullPolicy
from hostmanager_server.drivers.compose.progress import ImageProgress, PullItem, PullState
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.context import DEFAULT_HEARTBEAT, Context, Engine, Pull
from hostmanager_server.rpc.errors import (
    Violation,
    engine_unusable,
    invalid,
    no_compose_files,
    unknown_orphans,
)
from hostmanager_server.rpc.status import chosen
from hostmanager_server.store import Snapshot

DEFAULT_PROGRESS_TIMEOUT = 60.0
DEFAULT_STOP_TIMEOUT = 10.0
HOUR = 3600.0
COALESCE = 0.1  # s between two messages of a pull to one client
AT_ONCE = 8  # orphans that are removed side by side
SEEN_WITHIN = 5.0  # s for a removal to show in the status

_STATES = {
    PullState.WAITING: pb.ImagePull.STATE_WAITING,
    PullState.PULLING: pb.ImagePull.STATE_PULLING,
    PullState.UP_TO_DATE: pb.ImagePull.STATE_UP_TO_DATE,
    PullState.PULLED: pb.ImagePull.STATE_PULLED,
    PullState.SKIPPED: pb.ImagePull.STATE_SKIPPED,
    PullState.FAILED: pb.ImagePull.STATE_FAILED,
    PullState.CANCELLED: pb.ImagePull.STATE_CANCELLED,
}
# When several services use one image, the most eager one decides.
_EAGERNESS = (PullPolicy.ALWAYS, PullPolicy.MISSING, PullPolicy.BUILD, PullPolicy.NEVER)


class DockerRpcs:
    def __init__(self, context: Context) -> None:
        self._context = context

    # --- DockerPull

    async def docker_pull(
        self, request: pb.DockerPullRequest, peer: str
    ) -> AsyncIterator[pb.DockerPullResponse]:
        context, engine = self._context, self._engine()
        timeout = _seconds(
            request.progress_timeout, request.HasField("progress_timeout"), "progress_timeout",
            1.0, DEFAULT_PROGRESS_TIMEOUT,
        )  # fmt: skip
        images = images_to_pull(context.store.snapshot(), list(request.instance_ids), request.new_only)
        if not engine.pulling and (problem := await asyncio.to_thread(engine.problem)):
            raise engine_unusable(problem)
        with context.hub.watcher(peer, silence=math.inf):
            pull, joined = engine.join_pull(images, detach=request.detach, progress_timeout=timeout)
            try:
                if not joined:
                    message = f"pull of {', '.join(image.image for image in images) or 'nothing'}"
                    context.supervisor.note(Note(Kind.REQUEST, "DockerPull", message, context.now()))
                async for response in context.hub.until_closed(self._follow(pull, joined)):
                    yield response
            finally:
                pull.leave()

    async def _follow(self, pull: Pull, joined: bool) -> AsyncIterator[pb.DockerPullResponse]:
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

    # --- RemoveOrphans

    async def remove_orphans(
        self, request: pb.RemoveOrphansRequest, peer: str
    ) -> AsyncIterator[pb.RemoveOrphansResponse]:
        context, engine = self._context, self._engine()
        timeout = _seconds(
            request.stop_timeout, request.HasField("stop_timeout"), "stop_timeout", 0.0, DEFAULT_STOP_TIMEOUT
        )
        if problem := await asyncio.to_thread(engine.problem):
            raise engine_unusable(problem)
        orphans = _orphans(context.store.snapshot().manager.orphans, list(request.container_ids))
        if orphans:
            names = ", ".join(f"{orphan.container_id[:12]} ({orphan.service})" for orphan in orphans)
            note = Note(Kind.REQUEST, "RemoveOrphans", f"removal of {names}", context.now())
            context.supervisor.note(note)
        with context.hub.watcher(peer, silence=math.inf):
            async for response in context.hub.until_closed(self._remove(engine, orphans, timeout)):
                yield response

    async def _remove(
        self, engine: Engine, orphans: Sequence[Orphan], stop_timeout: float
    ) -> AsyncIterator[pb.RemoveOrphansResponse]:
        turns = asyncio.Semaphore(AT_ONCE)

        async def remove(orphan: Orphan) -> pb.OrphanRemoval:
            async with turns:
                message = await self._remove_one(engine, orphan, stop_timeout)
            return pb.OrphanRemoval(
                container_id=orphan.container_id, compose_file=orphan.compose_file, service=orphan.service,
                removed=not message, message=message,
            )  # fmt: skip

        tasks = [asyncio.ensure_future(remove(orphan)) for orphan in orphans]
        done: list[pb.OrphanRemoval] = []
        try:
            for task in asyncio.as_completed(tasks):
                done.append(await task)
                yield pb.RemoveOrphansResponse(removal=done[-1])
        finally:
            for left in tasks:
                left.cancel()
        await self._until_gone({removal.container_id for removal in done if removal.removed})
        removed = sum(removal.removed for removal in done)
        result = pb.RemoveOrphansResult(removed=removed, failed=len(done) - removed)
        yield pb.RemoveOrphansResponse(result=result)

    async def _remove_one(self, engine: Engine, orphan: Orphan, stop_timeout: float) -> str:
        if orphan.container_id not in self._context.store.snapshot().manager.orphans:
            return "it is no orphan any more: its service is back in the file, or somebody removed it"
        return await asyncio.to_thread(engine.remove_container, orphan.container_id, stop_timeout)

    async def _until_gone(self, container_ids: set[str]) -> None:
        """Wait until the status shows what was done: who asks for it next is not to be told otherwise."""
        context = self._context
        with context.hub.own_watcher(SEEN_WITHIN) as watcher:
            while True:
                snapshot = context.store.snapshot()
                if not container_ids & set(snapshot.manager.orphans):
                    return
                if not await watcher.wait(snapshot.revision):
                    return

    def _engine(self) -> Engine:
        if self._context.engine is None:
            raise no_compose_files()
        return self._context.engine


def images_to_pull(snapshot: Snapshot, instance_ids: list[str], new_only: bool) -> list[PullItem]:
    """The images of these instances (all when none are named), each once, with what is to be heeded. Raises
    RpcError for ids that are not known, or of no compose service."""
    bad: list[Violation] = []
    found: dict[str, PullItem] = {}
    every = chosen(snapshot, instance_ids)
    for index, instance_id in enumerate(instance_ids or sorted(every)):
        instance = snapshot.instances[instance_id].instance
        service = instance.spec.service
        if service is None:
            if instance_ids:
                text = f"{instance_id!r} has no compose service, and so no image"
                bad.append(Violation(f"instance_ids[{index}]", text))
            continue
        if new_only and instance.record is not None and instance.record.image_id != UNKNOWN_IMAGE:
            continue
        known = found.get(service.image)
        ids = (*known.instance_ids, instance_id) if known else (instance_id,)
        policies = (service.pull_policy, *((known.policy,) if known else ()))
        policy = min(policies, key=_EAGERNESS.index)
        built = service.built and (known is None or known.built)
        found[service.image] = PullItem(service.image, ids, policy, built)
    if bad:
        raise invalid("; ".join(violation.description for violation in bad), *bad)
    return list(found.values())


def _orphans(known: Mapping[str, Orphan], asked: list[str]) -> list[Orphan]:
    """The orphans that these beginnings of ids name; all when there are none. Raises RpcError for those that
    name none, or more than one."""
    if not asked:
        return list(known.values())
    found: dict[str, Orphan] = {}
    bad: list[Violation] = []
    unknown = True
    for index, beginning in enumerate(asked):
        matching = [o for o in known.values() if beginning and o.container_id.startswith(beginning)]
        if len(matching) == 1:
            found[matching[0].container_id] = matching[0]
            continue
        if matching:
            unknown = False
        what = f"{len(matching)} orphans begin with" if matching else "no orphan has the container id"
        bad.append(Violation(f"container_ids[{index}]", f"{what} {beginning!r}"))
    if bad and unknown:
        raise unknown_orphans(bad)
    if bad:
        raise invalid("; ".join(violation.description for violation in bad), *bad)
    return list(found.values())


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


def _seconds(given: Duration, is_set: bool, field: str, least: float, default: float) -> float:
    if not is_set:
        return default
    seconds = given.seconds + given.nanos / 1e9
    if not least <= seconds <= HOUR:
        text = f"{field} must be {least:g} s to {HOUR:g} s, not {seconds:g} s"
        raise invalid(text, Violation(field, text))
    return seconds
