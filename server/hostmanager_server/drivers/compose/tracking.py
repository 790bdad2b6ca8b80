"""Helpers of the compose driver: whether an instance goes on with its service, and its probes."""

from __future__ import annotations

from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.spec import InstanceSpec, ServiceSpec
from hostmanager_server.drivers.compose.service_containers import Key


def same_tracker(old: InstanceSpec, new: InstanceSpec) -> bool:
    """Return whether the same instance goes on with its service.

    False when the site config begins or ceases to name the service: the core then takes the running service
    over in a fresh instance, which may have the same name.
    """
    assert old.service is not None
    assert new.service is not None
    unclaimed = old.agent_class == UNCLAIMED
    return _key(old.service) == _key(new.service) and unclaimed is (new.agent_class == UNCLAIMED)


def no_command() -> None:
    """Prepare no command: the config allows none for compose services."""


def _key(service: ServiceSpec) -> Key:
    return service.project, service.service
