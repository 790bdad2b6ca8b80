"""The times of scheduled runs, for the core, which has no clock and no time zones."""

from __future__ import annotations

import logging

from hostmanager.values import replace

from hostmanager_server.config.schedule import next_run
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance
from hostmanager_server.linux.time_zones import TimeZoneError

log = logging.getLogger(__name__)


def with_next_run(instance: Instance, now: Instant) -> Instance:
    """Return the instance with the time of its next scheduled run; the same instance if it has that."""
    schedule, known = instance.spec.schedule, instance.observed.next_run
    if (schedule is None) is (known is None):
        return instance
    coming = None
    if schedule is not None:
        try:
            coming = next_run(schedule, now.wall)
        except (
            ValueError,
            TimeZoneError,
            OverflowError,
            OSError,
        ) as error:  # tzdata was removed, for example
            log.error("cannot tell the next run of %s: %s", instance.instance_id, error)
    if coming is known:
        return instance
    return replace(instance, observed=replace(instance.observed, next_run=coming))
