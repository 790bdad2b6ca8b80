"""Liveness of running instances: when a run that does not answer must be restarted."""

from __future__ import annotations

from hostmanager_server.core.events import Verdict
from hostmanager_server.core.model import Instance
from hostmanager_server.core.spec import HealthCheckProbe


def why_unresponsive(instance: Instance) -> str:
    """Return why the run must be restarted as unresponsive; empty if it need not.

    The daemon restarts only what it enforces, and neither held instances nor services that the engine has
    paused.
    """
    probe, run, service = instance.spec.alive, instance.observed.run, instance.observed.service
    if probe is None or run is None or not instance.should_run:
        return ""
    if instance.held or instance.passive_tracking:
        return ""
    if service is not None and service.paused_replicas:
        return ""
    if isinstance(probe.check, HealthCheckProbe):
        unhealthy = service is not None and service.unhealthy_replicas
        return "unresponsive: the health check of the compose file fails" if unhealthy else ""
    answer = run.answer
    if answer is None or answer.verdict is not Verdict.FAILED or answer.failures < probe.failures:
        return ""
    tried = f"{answer.failures} liveness probes in a row" if answer.failures > 1 else "the liveness probe"
    return f"unresponsive: {tried} failed ({answer.message})"


def failing_text(instance: Instance) -> str:
    """Return what the last attempt of the probe says of a failing instance; empty if nothing is wrong."""
    probe, run = instance.spec.alive, instance.observed.run
    answer = run.answer if run is not None else None
    if probe is None or answer is None or answer.verdict is not Verdict.FAILED:
        return ""
    count = f"{min(answer.failures, probe.failures)} of {probe.failures}"
    return f"failing its liveness probe ({count}): {answer.message}"


def unknown_text(instance: Instance) -> str:
    """Return why the probe could not be run; empty if the probe answers."""
    run = instance.observed.run
    answer = run.answer if run is not None else None
    if instance.spec.alive is None or answer is None or answer.verdict is not Verdict.UNKNOWN:
        return ""
    return f"running without liveness checks: {answer.message}"
