"""DockerPull: pull the images of compose services, with progress."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.actions import listed
from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.spec import PullPolicy, ServiceSpec
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.call_origin import origin_of
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert_docker import pull_message, pull_result
from hostmanager_server.rpc.errors import FieldViolation, engine_unusable, invalid_entries, no_compose_files
from hostmanager_server.rpc.ports import ImageProgress, PullItem, PullProgress, PullState
from hostmanager_server.rpc.selecting import select_ids
from hostmanager_server.rpc.validation import DEFAULT_HEARTBEAT, check_ids, duration
from hostmanager_server.state.store import Snapshot

DEFAULT_PROGRESS_TIMEOUT = 60.0  # s
MIN_PROGRESS_TIMEOUT, MAX_PROGRESS_TIMEOUT = 1.0, 3600.0  # s
# The longest wait for the event log to show the end of a pull, s. Only a daemon that supervises nothing needs
# longer.
LOGGED_WITHIN = 1.0
COALESCE = 0.1  # s between two messages to one client

_OUTCOMES = {
    PullState.PULLED: "pulled",
    PullState.UP_TO_DATE: "up to date",
    PullState.SKIPPED: "skipped",
    PullState.CANCELLED: "cancelled",
    PullState.FAILED: "failed",
}
# When several services use one image, the policy that comes first here decides.
_EAGERNESS = (PullPolicy.ALWAYS, PullPolicy.MISSING, PullPolicy.BUILD, PullPolicy.NEVER)


class PullRpcs:
    """The DockerPull streams."""

    def __init__(self, context: RpcContext) -> None:
        """Pull through the context's engine."""
        self._context = context

    async def docker_pull(
        self, request: pb.DockerPullRequest, caller: Caller
    ) -> AsyncIterator[pb.DockerPullResponse]:
        """Start or join a pull, and yield its progress; the last message has the result."""
        context, engine = self._context, self._context.engine
        if engine is None:
            raise no_compose_files()
        timeout = _progress_timeout(request)
        snapshot = context.store.snapshot()
        check_ids(request.instance_ids, "instance_ids", snapshot.instances)
        images = images_to_pull(snapshot, list(request.instance_ids), new_only=request.new_only)
        detach, origin = request.detach, origin_of(caller, request.reason, context.now())
        del request, snapshot  # must not live as long as the stream
        if not engine.pulling and (problem := await context.engine_problem()):
            raise engine_unusable(problem)
        with caller.admission.engine_streams.hold(caller.client):
            pull, joined = engine.join_pull(
                images, detach=detach, progress_timeout=timeout, ended=self._log_end
            )
            try:
                if not joined:
                    message = f"pull of {listed([image.image for image in images]) or 'nothing'}"
                    context.supervisor.log(
                        LogEntry(EntryKind.REQUEST, "DockerPull", message, context.now(), origin=origin)
                    )
                async for response in context.hub.until_closed(self._follow(pull, joined=joined)):
                    yield response
            finally:
                pull.leave()

    def _log_end(self, images: Sequence[ImageProgress]) -> None:
        """Log the end of a pull, and wait until clients can read the entry.

        Runs on a thread of the pull, as a pull may end when no client follows.
        """
        failed = any(image.state is PullState.FAILED for image in images)
        severity = Severity.ERROR if failed else Severity.INFO
        entry = LogEntry(
            EntryKind.REQUEST, "PullEnded", _summary(images), self._context.now(), severity=severity
        )
        with suppress(TimeoutError):
            self._context.supervisor.log(entry).result(LOGGED_WITHIN)

    async def _follow(self, pull: PullProgress, *, joined: bool) -> AsyncIterator[pb.DockerPullResponse]:
        """Yield changes at most every COALESCE s, heartbeats without changes, and the result."""
        version = -1
        with _change_event(pull) as changed:
            while True:
                changed.clear()
                changes = pull.changes(version)
                version = changes.version
                response = pull_message(changes.images, convert.timestamp(self._context.now()), joined=joined)
                if changes.over:
                    response.result.CopyFrom(pull_result(pull.counts()))
                    yield response
                    return
                yield response
                await asyncio.sleep(COALESCE)
                with suppress(TimeoutError):
                    async with asyncio.timeout(DEFAULT_HEARTBEAT):
                        await changed.wait()


@contextmanager
def _change_event(pull: PullProgress) -> Iterator[asyncio.Event]:
    """Yield an event of the running loop that is set after every change of the pull."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: no stream waits any longer
            loop.call_soon_threadsafe(changed.set)

    pull.subscribe(wake)
    try:
        yield changed
    finally:
        pull.unsubscribe(wake)


def _progress_timeout(request: pb.DockerPullRequest) -> float:
    if not request.HasField("progress_timeout"):
        return DEFAULT_PROGRESS_TIMEOUT
    return duration(request.progress_timeout, "progress_timeout", MIN_PROGRESS_TIMEOUT, MAX_PROGRESS_TIMEOUT)


def images_to_pull(snapshot: Snapshot, instance_ids: list[str], *, new_only: bool) -> list[PullItem]:
    """Return the images of these instances (of all when none are named), each once.

    `new_only` leaves out the images that the engine has. Raises RpcError for ids that are unknown, or that
    have no compose service.
    """
    bad: list[FieldViolation] = []
    found: dict[str, PullItem] = {}
    selected = select_ids(snapshot, instance_ids)
    for index, instance_id in enumerate(instance_ids or sorted(selected)):
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
        if known is None or instance_id not in known.instance_ids:  # a request may name an id twice
            found[service.image] = _merge(known, service, instance_id)
    if bad:
        raise invalid_entries(bad)
    return list(found.values())


def _merge(known: PullItem | None, service: ServiceSpec, instance_id: str) -> PullItem:
    """Return the pull of a service's image, together with the other services that use the image."""
    if known is None:
        return PullItem(service.image, (instance_id,), service.pull_policy, service.built, service.platform)
    policy = min((service.pull_policy, known.policy), key=_EAGERNESS.index)
    ids = (*known.instance_ids, instance_id)
    return PullItem(service.image, ids, policy, service.built and known.built, known.platform)


def _summary(images: Sequence[ImageProgress]) -> str:
    """Return a text such as `pull ended: 1 pulled, 1 failed: lab/agent:2: no such image`."""
    counts = Counter(image.state for image in images)
    outcomes = ", ".join(f"{counts[state]} {word}" for state, word in _OUTCOMES.items() if counts[state])
    failures = [f"{image.image}: {image.message}" for image in images if image.state is PullState.FAILED]
    parts = ["pull ended", outcomes or "nothing to pull"]
    if failures:
        parts.append("; ".join(failures))
    return ": ".join(parts)
