"""What the daemon itself watches of what it publishes."""

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


# How long, in s, clients wait for a docker engine's first answer: with it, nothing need be shown as unknown.
_FIRST_SIGHT = 1.0


async def wait_for_first_observation(store: Store, hub: Hub) -> None:
    """Wait until it is known of every compose service whether it runs, or that it cannot be known now."""

    def unseen() -> bool:
        tracked = store.snapshot().instances.values()
        return any(t.instance.observed.unobservable == NOT_YET_OBSERVED for t in tracked)

    with hub.watcher(silence=_FIRST_SIGHT) as watcher, suppress(RpcError, TimeoutError):
        async with asyncio.timeout(_FIRST_SIGHT):
            while unseen():
                await watcher.wait(hub.revision)


async def log_events(store: Store, hub: Hub) -> None:
    """Write what happens into the daemon's log, off the supervisor's thread."""
    cursor = 0
    with hub.watcher(silence=math.inf) as watcher, suppress(RpcError):  # it ends when the hub closes
        while True:
            seen = hub.revision
            news = store.events_since(cursor)
            for event in news.events:
                entry = event.entry
                who = f"{entry.instance_id}: " if entry.instance_id else ""
                log.log(_LEVELS[entry.severity], "%s%s: %s", who, entry.reason, entry.message)
            cursor = news.last
            await watcher.wait(seen)
