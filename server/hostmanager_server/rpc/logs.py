"""TailLogs: what an instance wrote, and goes on writing."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.spec import Management
from hostmanager_server.rpc.context import Context
from hostmanager_server.rpc.errors import Violation, invalid, not_operable
from hostmanager_server.rpc.status import find

DEFAULT_LINES = 100
MAX_LINES = 100_000


class LogRpcs:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def tail_logs(self, request: pb.TailLogsRequest, peer: str) -> AsyncIterator[pb.TailLogsResponse]:
        context = self._context
        snapshot = context.store.snapshot()
        spec = snapshot.instances[find(snapshot, request.instance_id)].instance.spec
        lines = request.lines if request.HasField("lines") else DEFAULT_LINES
        if not 0 <= lines <= MAX_LINES:
            text = f"lines must be 0 to {MAX_LINES}, not {lines}"
            raise invalid(text, Violation("lines", text))
        if spec.management is Management.DOCKER:
            raise not_operable(spec.instance_id, spec.problem)
        batches = context.outputs.read(spec.instance_id, spec.log, lines, request.follow)
        with context.hub.watcher(peer, silence=math.inf):
            async for batch in context.hub.until_closed(batches):
                yield pb.TailLogsResponse(
                    lines=[
                        pb.LogLine(text=line.text, continues=line.continues, stream=pb.LOG_STREAM_COMBINED)
                        for line in batch
                    ]
                )
