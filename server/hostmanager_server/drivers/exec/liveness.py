"""Liveness probes of the running instances of a driver."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hostmanager.values import dataclass, replace

from hostmanager_server.core.events import Instant, ProbeAnswer, ProbeAnswered, RunKey, Verdict
from hostmanager_server.core.spec import HealthCheckProbe, InstanceSpec, LivenessProbe
from hostmanager_server.drivers.contract import CallSoon, PostEvent
from hostmanager_server.drivers.exec.liveness_attempts import MakeCommand
from hostmanager_server.drivers.exec.readiness import Prober


class LastAnswers:
    """The newest answers of liveness probes, for readers on other threads.

    The core learns only of answers that differ, as a healthy instance must cost no decisions.
    """

    def __init__(self) -> None:
        self._answers: dict[str, tuple[int, ProbeAnswer]] = {}
        self._lock = threading.Lock()

    def put(self, run: RunKey, answer: ProbeAnswer) -> None:
        """Keep the answer of a run."""
        with self._lock:
            self._answers[run.instance_id] = run.number, answer

    def drop(self, instance_id: str) -> None:
        """Forget the answer about an instance."""
        with self._lock:
            self._answers.pop(instance_id, None)

    def of(self, instance_id: str, run_number: int) -> ProbeAnswer | None:
        """Return the newest answer about a run, or None."""
        number, answer = self._answers.get(instance_id, (0, None))
        return answer if number == run_number else None


@dataclass(eq=False, slots=True)
class _Watched:
    run: RunKey
    probe: LivenessProbe
    cancel: Callable[[], None]
    failures: int = 0
    posted: ProbeAnswer | None = None


class LivenessWatch:
    """Probes the running instances of one driver; for the supervisor thread.

    `now` may be called from any thread.
    """

    def __init__(
        self,
        prober: Prober,
        post: PostEvent,
        call_soon: CallSoon,
        now: Callable[[], Instant],
        answers: LastAnswers,
    ) -> None:
        self._prober = prober
        self._post = post
        self._call_soon = call_soon
        self._now = now
        self._answers = answers
        self._watched: dict[str, _Watched] = {}

    def begin(
        self, run: RunKey, spec: InstanceSpec, make_command: MakeCommand, *, started: bool = False
    ) -> None:
        """Probe a run that is ready, if its spec has a probe; `started`: the run has just begun.

        A second call for a run changes the probe, if it differs.
        """
        probe = spec.alive
        if probe is not None and isinstance(probe.check, HealthCheckProbe):
            probe = None  # the engine probes
        known = self._watched.get(run.instance_id)
        if known is not None and known.run == run and known.probe == probe:
            return
        self.end(run.instance_id)
        if probe is None:
            return
        delay = probe.delay + (spec.up_after if started else 0.0)
        watched = _Watched(run, probe, _nothing)

        def heard(verdict: Verdict, message: str) -> None:
            self._heard(watched, verdict, message)

        watched.cancel = self._prober.watch(probe, make_command, delay, heard)
        self._watched[run.instance_id] = watched

    def end(self, instance_id: str) -> None:
        """Stop probing an instance; without a probe, do nothing."""
        watched = self._watched.pop(instance_id, None)
        if watched is not None:
            watched.cancel()
            self._answers.drop(instance_id)

    def clear(self) -> None:
        """Stop probing all instances."""
        for instance_id in list(self._watched):
            self.end(instance_id)

    def _heard(self, watched: _Watched, verdict: Verdict, message: str) -> None:
        """Take a verdict, on the thread of the probes; wake the supervisor only if the answer differs."""
        match verdict:
            case Verdict.ALIVE:
                watched.failures = 0
            case Verdict.FAILED:
                watched.failures += 1
            case Verdict.UNKNOWN:
                pass  # neither a failure nor a success
        answer = ProbeAnswer(verdict, self._now(), message, watched.failures)
        self._answers.put(watched.run, answer)
        bounded = replace(answer, failures=min(answer.failures, watched.probe.failures))
        if watched.posted is None or replace(watched.posted, at=bounded.at) != bounded:
            watched.posted = bounded
            self._call_soon(lambda: self._post_answer(watched, bounded))

    def _post_answer(self, watched: _Watched, answer: ProbeAnswer) -> None:
        if self._watched.get(watched.run.instance_id) is watched:  # else ended meanwhile
            self._post(ProbeAnswered(watched.run, answer))


def _nothing() -> None:
    """Cancel nothing: the probe has not begun."""
