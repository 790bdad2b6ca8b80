"""The event log on the daemon's log, and the wait for the first facts of the engine."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress

from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.model import NOT_YET_OBSERVED
from hostmanager_server.rpc.errors import RpcError
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.state.store import Store

log = logging.getLogger(__name__)

_LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}

# How long clients wait for the Docker Engine's first answer, in s. With the answer, no state is unknown.
_FIRST_OBSERVATION_TIMEOUT = 1.0


async def wait_for_first_observation(store: Store, hub: Hub) -> None:
    """Wait until the state of every compose service is known or unavailable."""

    def unobserved() -> bool:
        tracked = store.snapshot().instances.values()
        return any(t.instance.observed.unobservable == NOT_YET_OBSERVED for t in tracked)

    with hub.watcher(silence=_FIRST_OBSERVATION_TIMEOUT) as watcher, suppress(RpcError, TimeoutError):
        async with asyncio.timeout(_FIRST_OBSERVATION_TIMEOUT):
            while unobserved():
                await watcher.wait(hub.revision)


async def log_events(store: Store, hub: Hub) -> None:
    """Copy the event log into the daemon's log until the hub closes.

    The supervisor's thread takes no part.
    """
    cursor = 0
    with hub.watcher(silence=math.inf, of_client=False) as watcher, suppress(RpcError):  # the hub closed
        while True:
            revision = hub.revision
            batch = store.events_since(cursor)
            for event in batch.events:
                entry = event.entry
                subject = f"{entry.instance_id}: " if entry.instance_id else ""
                log.log(_LEVELS[entry.severity], "%s%s: %s", subject, entry.reason, entry.message)
            cursor = batch.last
            await watcher.wait(revision)
