"""Conditions of a run: a paused or unhealthy compose service, a liveness probe that fails or cannot run."""

from __future__ import annotations

from collections.abc import Iterator

from hostmanager.values import dataclass

from hostmanager_server.core import entries
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.event_log import LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.liveness import failing_text, unknown_text
from hostmanager_server.core.model import Instance

# Reasons of the state of a run with a condition.
CONDITIONS = ("Paused", "Unhealthy", "NotAnswering", "Unprobed")
NO_CONTAINERS = "finished: the compose file wants no containers (scale or replicas is 0)"


@dataclass(frozen=True, slots=True)
class RunCondition:
    """A fault of an instance that runs; `up` is False when no replica of a service can work."""

    reason: str
    message: str
    up: bool = True


def condition_of(instance: Instance) -> RunCondition | None:
    """Return the condition of a run that the engine or the liveness probe reports, or None."""
    service = instance.observed.service
    if service is not None and service.running and (condition := _condition_of_service(instance, service)):
        return condition
    if message := failing_text(instance):
        return RunCondition(reason="NotAnswering", message=message)
    if message := unknown_text(instance):
        return RunCondition(reason="Unprobed", message=message)
    return None


def _condition_of_service(instance: Instance, service: ServiceStatus) -> RunCondition | None:
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
    elif condition is None and before == "NotAnswering":
        yield entries.condition(instance, "Answering", "answers its liveness probe again", now)
    elif condition is None and before == "Unprobed":
        yield entries.condition(instance, "Probed", "has liveness checks again", now)


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
