"""Conversion of liveness probes and their answers to protobuf messages."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.events import ProbeAnswer, Verdict
from hostmanager_server.core.model import Instance
from hostmanager_server.core.spec import HealthCheckProbe
from hostmanager_server.core.spec_differences import probe_words
from hostmanager_server.rpc.convert import timestamp
from hostmanager_server.rpc.ports import LivenessAnswers

_ANSWERS = {
    Verdict.ALIVE: pb.Liveness.ANSWER_ALIVE,
    Verdict.FAILED: pb.Liveness.ANSWER_FAILED,
    Verdict.UNKNOWN: pb.Liveness.ANSWER_UNKNOWN,
}
_HEALTH = {"healthy": pb.Liveness.ANSWER_ALIVE, "unhealthy": pb.Liveness.ANSWER_FAILED}


def liveness(instance: Instance, answers: LivenessAnswers | None) -> pb.Liveness:
    """Return the probe of an instance, which must have one, with the newest answer about its run."""
    probe = instance.spec.alive
    assert probe is not None
    kind, check = probe_words(probe.check)
    message = pb.Liveness(kind=kind, check=check)
    if isinstance(probe.check, HealthCheckProbe):
        service = instance.observed.service
        if service is not None and service.health in _HEALTH:
            message.answer = _HEALTH[service.health]
        return message
    message.interval.CopyFrom(_duration(probe.interval))
    message.timeout.CopyFrom(_duration(probe.timeout))
    message.failures = probe.failures
    if (answer := _newest(instance, answers)) is not None:
        message.answer = _ANSWERS[answer.verdict]
        message.time.CopyFrom(timestamp(answer.at))
        message.message = answer.message
        message.consecutive_failures = answer.failures
    return message


def _newest(instance: Instance, answers: LivenessAnswers | None) -> ProbeAnswer | None:
    run = instance.observed.run
    if run is None:
        return None
    newest = answers.of(instance.instance_id, run.number) if answers is not None else None
    return newest or run.answer


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))
