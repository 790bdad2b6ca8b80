"""Whether what was asked for has been reached: the judgement behind wait_for.

Pure. An instance has reached its target when the daemon has carried out the generation that the change gave
it (`observed_generation`) and it stands where its target wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.errors import TargetNotReached, Unreached
from hostmanager_client.state import HostState
from hostmanager_client.words import next_action_word, target_word


@dataclass(frozen=True, slots=True)
class WaitProgress:
    """How far it is: the ids that got there, and where the others are. All are sorted by id."""

    state: HostState
    reached: tuple[str, ...]
    pending: tuple[Unreached, ...]
    hopeless: tuple[Unreached, ...]

    @property
    def done(self) -> bool:
        """Nothing more is to be waited for."""
        return not self.pending


OnProgress = Callable[[WaitProgress], None]


class Waiting:
    """Judges states of the host until everything waited for is reached, or cannot be."""

    def __init__(
        self,
        generations: Mapping[str, int],
        targets: Mapping[str, pb.TargetState.ValueType] | None = None,
        epoch: str = "",
    ) -> None:
        self._generations = dict(sorted(generations.items()))
        self._targets = dict(targets or {})
        self._epoch = epoch
        self._progress: WaitProgress | None = None

    @property
    def instance_ids(self) -> tuple[str, ...]:
        return tuple(self._generations)

    def observe(self, state: HostState) -> WaitProgress:
        """Judge a state."""
        self._epoch = self._epoch or state.epoch
        reached: list[str] = []
        pending: list[Unreached] = []
        hopeless: list[Unreached] = []
        for instance_id, generation in self._generations.items():
            verdict = self._judge(state, instance_id, generation)
            if verdict is None:
                reached.append(instance_id)
            else:
                (hopeless if verdict.hopeless else pending).append(verdict)
        self._progress = WaitProgress(state, tuple(reached), tuple(pending), tuple(hopeless))
        return self._progress

    def check(self, timeout: float | None = None, address: str = "") -> WaitProgress:
        """The last progress when all is reached; raises TargetNotReached otherwise."""
        if self._progress is None:
            unheard = tuple(Unreached(i, "", "NotFollowed", "nothing was heard of it", False)
                            for i in self._generations)  # fmt: skip
            raise TargetNotReached(_message(unheard, timeout), unheard, address=address)
        unreached = self._progress.hopeless + self._progress.pending
        if unreached:
            late = timeout if self._progress.pending else None
            raise TargetNotReached(_message(unreached, late), unreached, address=address)
        return self._progress

    def _judge(self, state: HostState, instance_id: str, generation: int) -> Unreached | None:
        """None: it is there."""
        instance = state.instances.get(instance_id)
        wanted = self._targets.get(instance_id)
        if instance is None:
            if wanted == pb.TARGET_STATE_DOWN:
                return None
            return Unreached(instance_id, "", "Removed", "it is no longer tracked", True)
        if wanted is None:
            if instance.generation <= generation:  # what the change made of it; later ones are others'
                self._targets[instance_id] = instance.target_state
            wanted = instance.target_state

        def not_there(reason: str, message: str, *, hopeless: bool = False) -> Unreached:
            return Unreached(instance_id, next_action_word(instance.next_action), reason, message, hopeless)

        if instance.target_state not in (wanted, pb.TARGET_STATE_PASSIVE):
            now = target_word(instance.target_state)
            return not_there("Superseded", f"its target was changed again, to {now}", hopeless=True)
        if wanted == pb.TARGET_STATE_UP and (instance.retired or not instance.operable):
            return not_there(instance.reason, instance.message or "it is not operable", hopeless=True)
        # Generations are of the daemon's life that gave them; of a later one all that counts is that
        # nothing asked for is under way.
        needed = generation if state.epoch == self._epoch else instance.generation
        if instance.observed_generation < needed:
            return not_there(instance.reason, instance.message)
        if instance.target_state == pb.TARGET_STATE_PASSIVE or _stands(instance, wanted):
            return None
        finished = wanted == pb.TARGET_STATE_UP and instance.reason == "Finished"
        return not_there(instance.reason, instance.message, hopeless=finished)


def _stands(instance: pb.ManagedInstance, wanted: pb.TargetState.ValueType) -> bool:
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
