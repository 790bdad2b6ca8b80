"""Decisions about runs of compose services that move no state."""

from __future__ import annotations

from hostmanager.values import replace

from hostmanager_server.core import entries
from hostmanager_server.core.actions import Action
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance
from hostmanager_server.core.spec import Target


def has_leftovers(instance: Instance) -> bool:
    """Return whether the containers of a service that is down must be removed.

    They have ended, were never started, or the engine is about to restart one.
    """
    service, target = instance.observed.service, instance.wanted.target
    if not instance.should_stop or service is None:
        return False
    down = target is Target.DOWN and not instance.wanted.restart
    return service.restarting or (down and bool(service.container_ids) and not service.running)


def report_renewal(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Report that the driver replaces a container that cannot start."""
    run = instance.observed.run
    if run is None or not run.renewed:
        return instance
    actions.append(entries.renewed(instance, run.renewed, now))
    return instance.with_run(replace(run, renewed=""))


def restart_outdated(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Request the restart of an enforced run with a service that the run builds upon."""
    run = instance.observed.run
    if run is None or not run.outdated:
        return instance
    if instance.should_run:
        actions.append(entries.restarting_with(instance, run.outdated, now))
        instance = replace(instance, wanted=replace(instance.wanted, restart=True))
    return instance.with_run(replace(run, outdated=""))
