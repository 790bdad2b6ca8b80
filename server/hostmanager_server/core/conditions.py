"""Conditions of a running compose service: paused and unhealthy."""

from __future__ import annotations

from collections.abc import Iterator

from hostmanager.values import dataclass

from hostmanager_server.core import entries
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.event_log import LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance

CONDITIONS = ("Paused", "Unhealthy")  # reasons of the state of a service with a condition
NO_CONTAINERS = "finished: the compose file wants no containers (scale or replicas is 0)"


@dataclass(frozen=True, slots=True)
class RunCondition:
    """A fault of a service that runs; `up` is False when no replica can work."""

    reason: str
    message: str
    up: bool = True


def condition_of(instance: Instance) -> RunCondition | None:
    """Return the condition that the engine reports, or None for a service that works."""
    service = instance.observed.service
    if service is None or not service.running:
        return None
    name = instance.spec.service.service if instance.spec.service is not None else ""
    if service.paused_replicas:
        message = f"paused, not working; {_remedy(service, name)}"
        return RunCondition(
            reason="Paused", message=message, up=service.paused_replicas < service.running_replicas
        )
    if service.unhealthy_replicas:
        return RunCondition(reason="Unhealthy", message=_unhealthy(service))
    return None


def condition_entries(instance: Instance, condition: RunCondition | None, now: Instant) -> Iterator[LogEntry]:
    """Yield the entry about a condition that begins (`condition`) or ends (None)."""
    before = instance.standing.reason
    if condition is not None and condition.reason != before:
        yield entries.condition(instance, condition.reason, f"is {condition.message}", now, Severity.WARNING)
    elif condition is None and before == "Paused":
        yield entries.condition(instance, "Resumed", "is no longer paused", now)
    elif condition is None and before == "Unhealthy":
        yield entries.condition(instance, "Healthy", "is no longer unhealthy", now)


def _remedy(service: ServiceStatus, name: str) -> str:
    if service.running_replicas == 1:
        return f"`docker unpause {service.container_name}` lets the container go on"
    count = f"{service.paused_replicas} of {service.running_replicas} containers"
    return f"{count}; `docker compose unpause {name}` lets them go on"


def _unhealthy(service: ServiceStatus) -> str:
    if service.running_replicas == 1:
        return f"unhealthy: the health check fails; `docker inspect {service.container_name}` has its output"
    count = f"{service.unhealthy_replicas} of {service.running_replicas} containers"
    return f"unhealthy: the health check of {count} fails"
