"""Progress of instances toward their targets, the decision behind wait_for.

This module is pure. An instance has reached its target when the daemon has carried out the generation of the
change (`observed_generation`) and the state of the instance matches the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.values import dataclass

from hostmanager_client.calls import DOWN, UP, Target
from hostmanager_client.errors import InvalidRequest, TargetNotReached, Unreached, quoted
from hostmanager_client.last_output import with_last_line
from hostmanager_client.state import HostState
from hostmanager_client.words import next_action_word, target_word

_TARGETS = {"up": UP, "down": DOWN, "passive": pb.TARGET_STATE_PASSIVE}


@dataclass(frozen=True, slots=True)
class WaitProgress:
    """The instances that reached their targets, and the reasons of the others; all sorted by id."""

    state: HostState
    reached: tuple[str, ...]
    pending: tuple[Unreached, ...]
    hopeless: tuple[Unreached, ...]

    @property
    def done(self) -> bool:
        """True if no instance is pending."""
        return not self.pending


OnProgress = Callable[[WaitProgress], None]


class Waiting:
    """Compares states of the host with the wanted targets, until nothing is pending."""

    def __init__(
        self,
        generations: Mapping[str, int],
        targets: Mapping[str, Target | str] | None = None,
        epoch: str = "",
    ) -> None:
        self._generations = dict(sorted(generations.items()))
        self._targets = {each: _number(each, target) for each, target in (targets or {}).items()}
        self._epoch = epoch
        self._progress: WaitProgress | None = None

    @property
    def instance_ids(self) -> tuple[str, ...]:
        """The ids of the wait, sorted."""
        return tuple(self._generations)

    def observe(self, state: HostState) -> WaitProgress:
        """Return the progress in a state of the host."""
        self._epoch = self._epoch or state.epoch
        reached: list[str] = []
        pending: list[Unreached] = []
        hopeless: list[Unreached] = []
        for instance_id, generation in self._generations.items():
            verdict = self._unreached(state, instance_id, generation)
            if verdict is None:
                reached.append(instance_id)
            else:
                (hopeless if verdict.hopeless else pending).append(verdict)
        self._progress = WaitProgress(state, tuple(reached), tuple(pending), tuple(hopeless))
        return self._progress

    def check(self, timeout: float | None = None, address: str = "") -> WaitProgress:
        """Return the last progress; raise TargetNotReached unless every target is reached."""
        if self._progress is None:
            unknown = tuple(Unreached(i, "", "NotFollowed", "the daemon sent no status", False)
                            for i in self._generations)  # fmt: skip
            raise TargetNotReached(_message(unknown, timeout), unknown, address=address)
        unreached = self._progress.hopeless + self._progress.pending
        if unreached:
            late = timeout if self._progress.pending else None
            raise TargetNotReached(_message(unreached, late), unreached, address=address)
        return self._progress

    def _unreached(self, state: HostState, instance_id: str, generation: int) -> Unreached | None:
        """Return why the instance has not reached its target; None if reached."""
        instance = state.instances.get(instance_id)
        wanted = self._targets.get(instance_id)
        if instance is None:
            if wanted == pb.TARGET_STATE_DOWN:
                return None
            return Unreached(instance_id, "", "Removed", "the daemon no longer tracks it", True)
        if wanted is None:
            if instance.generation <= generation:  # later generations come from other clients
                self._targets[instance_id] = instance.target_state
            wanted = instance.target_state

        def unreached(reason: str, message: str, *, hopeless: bool = False) -> Unreached:
            return Unreached(instance_id, next_action_word(instance.next_action), reason, message, hopeless)

        if instance.target_state not in (wanted, pb.TARGET_STATE_PASSIVE):
            now = target_word(instance.target_state)
            return unreached("Superseded", f"another request changed its target to {now}", hopeless=True)
        message = with_last_line(instance) if wanted == pb.TARGET_STATE_UP else instance.message
        if wanted == pb.TARGET_STATE_UP and (instance.retired or not instance.operable):
            return unreached(instance.reason, message or "it is not operable", hopeless=True)
        # Generations count within one epoch. In a later epoch the instance must only have carried out its
        # newest generation.
        needed = generation if state.epoch == self._epoch else instance.generation
        if instance.observed_generation < needed:
            stuck = instance.reason in ("DependencyDown", "Held") and instance.generation >= needed
            return unreached(instance.reason, message, hopeless=stuck)
        if instance.target_state == pb.TARGET_STATE_PASSIVE or _matches(instance, wanted):
            return None
        if wanted == pb.TARGET_STATE_UP and instance.reason in ("Finished", "Scheduled"):
            return None  # ended with success, and the restart policy asks for no further run
        failed = wanted == pb.TARGET_STATE_UP and instance.reason in ("Failed", "Held")
        return unreached(instance.reason, message, hopeless=failed)


def _matches(instance: pb.ManagedInstance, wanted: pb.TargetState.ValueType) -> bool:
    match wanted:
        case pb.TARGET_STATE_UP:
            return instance.next_action == pb.NEXT_ACTION_UP
        case pb.TARGET_STATE_DOWN:
            return instance.next_action in (pb.NEXT_ACTION_DOWN, pb.NEXT_ACTION_UNKNOWN)
        case _:
            return True


def _message(unreached: tuple[Unreached, ...], late: float | None) -> str:
    when = f" within {late:g} s" if late is not None else ""
    noun = "instance" if len(unreached) == 1 else "instances"
    listed = "; ".join(str(one) for one in unreached[:5])
    more = f"; and {len(unreached) - 5} more" if len(unreached) > 5 else ""
    return f"{len(unreached)} {noun} did not reach the target{when}: {listed}{more}"


def _number(instance_id: str, target: Target | str) -> Target:
    """Return the number of a target or of its word; raise InvalidRequest for another word."""
    number = _TARGETS.get(target) if isinstance(target, str) else target
    if number is None:
        words = ", ".join(map(repr, _TARGETS))
        raise InvalidRequest(
            f"cannot wait for {quoted(instance_id)}: its target {target!r} is none of {words}"
        )
    return number
