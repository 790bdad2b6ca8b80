"""Decisions that move no state: containers to remove, renewals, and restarts with other instances."""

from __future__ import annotations

from hostmanager.values import replace

from hostmanager_server.core import entries
from hostmanager_server.core.actions import Action
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, Phase
from hostmanager_server.core.origin import Origin, OriginKind
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
    """Report that the driver replaces a container that cannot start, or sets no limit of memory."""
    run = instance.observed.run
    if run is None or not (run.renewed or run.notice):
        return instance
    if run.renewed:
        actions.append(entries.renewed(instance, run.renewed, now))
    if run.notice:
        actions.append(entries.unlimited(instance, run.notice, now))
    return instance.with_run(replace(run, renewed="", notice=""))


def restart_outdated(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Request the restart of an enforced run with a dependency, or a service that the run builds upon."""
    run, causes = instance.observed.run, instance.observed.restarted_by
    if run is None or instance.held:
        return instance
    why = run.outdated
    if causes and run.phase is not Phase.ENDING:
        why = why or f"restarting with {', '.join(causes)}"
    if why and instance.should_run:
        origin = Origin(OriginKind.DEPENDENCY, now, detail=", ".join(causes) or why)
        actions.append(entries.restarting_with(instance, why, now, origin))
        origins = replace(instance.wanted.origins, restart=origin)
        instance = replace(instance, wanted=replace(instance.wanted, restart=True, origins=origins))
    return instance.with_run(replace(run, outdated="")) if run.outdated else instance
