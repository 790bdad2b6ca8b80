"""GetUsage and WatchUsage: what running instances use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.usage import Usage
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.selecting import InstanceFilter, select_ids
from hostmanager_server.rpc.usage_sampler import LONGEST, UsageSample, cpu_in_use
from hostmanager_server.rpc.validation import check_ids, duration

MAX_WINDOW = 10.0  # s
DEFAULT_INTERVAL = 2.0  # s
MIN_INTERVAL = 0.5  # s


class UsageRpcs:
    """The RPCs that measure."""

    def __init__(self, context: RpcContext) -> None:
        """Measure with the context's sampler."""
        self._context = context

    async def get_usage(self, request: pb.GetUsageRequest) -> pb.GetUsageResponse:
        """Return one measurement, or the second of two."""
        context, sampler = self._context, self._context.usage
        window = 0.0
        if request.HasField("window"):
            window = duration(request.window, "window", 0.0, MAX_WINDOW)
        snapshot = context.store.snapshot()
        check_ids(request.instance_ids, "instance_ids", snapshot.instances)
        ids = select_ids(snapshot, request.instance_ids, request.selectors, failing=request.failing)
        before = None
        if window > 0.0:
            before = await sampler.measure(sampler.runs(ids))
            await asyncio.sleep(window)
        sample = await sampler.measure(sampler.runs(ids))
        return pb.GetUsageResponse(
            usages=_messages(sample, before, sorted(sample.usages)), time=convert.timestamp(context.now())
        )

    async def watch_usage(self, request: pb.WatchUsageRequest, caller: Caller) -> AsyncIterator[bytes]:
        """Yield measurements until the client leaves or the daemon shuts down."""
        interval = DEFAULT_INTERVAL
        if request.HasField("interval"):
            interval = duration(request.interval, "interval", MIN_INTERVAL, LONGEST)
        known = self._context.store.snapshot().instances
        filtered = caller.filter(
            request.instance_ids, known, list(request.selectors), failing=request.failing
        )
        del request, known  # must not live as long as the stream
        async with filtered as wanted:
            with self._context.usage.reader(interval):
                messages = self._follow(caller, wanted, interval)
                async for message in self._context.hub.until_closed(messages):
                    yield message

    async def _follow(self, caller: Caller, wanted: InstanceFilter, interval: float) -> AsyncIterator[bytes]:
        sampler, since, before = self._context.usage, 0.0, None
        while True:
            sample = await sampler.next(since)
            # Of the first message, the earlier measurement is that of the other streams.
            before = sampler.before if before is None else before
            async with caller.admission.message_pacer:
                message = self._message(sample, before, wanted)
            yield message
            # After a first message without numbers of the CPU, the next one comes soon.
            since = sample.at if before is None else sample.at + interval * 0.9
            before = sample

    def _message(self, sample: UsageSample, before: UsageSample | None, wanted: InstanceFilter) -> bytes:
        context = self._context
        instances = context.store.snapshot().instances
        ids = [i for i in sorted(sample.usages) if i in instances and wanted.passes(instances[i].instance)]
        message = pb.WatchUsageResponse(
            usages=_messages(sample, before, ids), time=convert.timestamp(context.now())
        )
        return message.SerializeToString()


def _messages(sample: UsageSample, before: UsageSample | None, ids: Iterable[str]) -> list[pb.InstanceUsage]:
    return [
        _message(instance_id, sample.usages[instance_id], cpu_in_use(before, sample, instance_id))
        for instance_id in ids
    ]


def _message(instance_id: str, usage: Usage, cpu: float | None) -> pb.InstanceUsage:
    source = pb.InstanceUsage.MEMORY_SOURCE_PROCESSES
    if usage.from_cgroup:
        source = pb.InstanceUsage.MEMORY_SOURCE_CGROUP
    cpu_time = Duration()
    cpu_time.FromMicroseconds(round(usage.cpu_time * 1e6))
    return pb.InstanceUsage(
        instance_id=instance_id, cpu=cpu, cpu_time=cpu_time, memory=usage.memory, memory_source=source,
        memory_limit=usage.memory_limit, processes=usage.processes, tasks=usage.tasks,
        descriptors=usage.descriptors,
    )  # fmt: skip
