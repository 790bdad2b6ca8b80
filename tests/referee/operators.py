"""Operators: clients that ask for things all the time, whether the daemon lives or not."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee.daemons import listens, open_channel
from tests.referee.ground import Ground
from tests.referee.model import DOWN, RELOAD, UP, Model

_WORDS = {UP: pb.TARGET_STATE_UP, DOWN: pb.TARGET_STATE_DOWN}
# What a daemon that dies, or is not there, answers; anything else is an answer of its own.
_LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
_TIMEOUT = 20.0  # s


class Gate:
    """Lets a number of workers work, or waits until all of them rest."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open = False
        self._over = False
        self._working = 0

    def enter(self) -> bool:
        """Wait until there is work; False: never again."""
        with self._condition:
            self._condition.wait_for(lambda: self._open or self._over)
            if self._over:
                return False
            self._working += 1
            return True

    def leave(self) -> None:
        with self._condition:
            self._working -= 1
            self._condition.notify_all()

    def open(self) -> None:
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def close(self, patience: float) -> None:
        """Wait until nobody works any more."""
        with self._condition:
            self._open = False
            if not self._condition.wait_for(lambda: self._working == 0, patience):
                raise TimeoutError(f"a request takes longer than {patience:g} s")

    def finish(self) -> None:
        with self._condition:
            self._over = True
            self._condition.notify_all()


class Operator(threading.Thread):
    """One client. What it asks for is drawn from `rng`, with at most `pause` s between two requests."""

    def __init__(
        self, ground: Ground, model: Model, gate: Gate, rng: random.Random, number: int, pause: float = 0.04
    ) -> None:
        super().__init__(name=f"operator-{number}", daemon=True)
        self._ground = ground
        self._model = model
        self._gate = gate
        self._rng = rng
        self._pause = pause
        self._rest = threading.Event()
        self._residents = [agent.instance for agent in ground.agents if not agent.guest]
        self._guests = [agent.instance for agent in ground.agents if agent.guest]
        self._deeds: Sequence[tuple[int, Callable[[pb_grpc.HostManagerServiceStub], None]]] = (
            (40, self._set_one), (10, self._set_some), (4, self._set_all), (10, self._restart),
            (8, self._reload), (10, self._status), (10, self._list), (4, self._refused),
        )  # fmt: skip
        self.answers: dict[str, int] = {}  # how many requests ended how
        self.broken: BaseException | None = None

    def run(self) -> None:
        with open_channel(self._ground) as channel:
            stub = pb_grpc.HostManagerServiceStub(channel)
            weights = [weight for weight, _ in self._deeds]
            while self._gate.enter():
                try:
                    if not listens(self._ground):
                        continue
                    (_, deed) = self._rng.choices(self._deeds, weights)[0]
                    deed(stub)
                    self._count("OK")
                except grpc.RpcError as error:
                    self._count(error.code().name)
                except BaseException as error:
                    self.broken = error
                    raise
                finally:
                    self._gate.leave()
                    self._rest.wait(self._rng.uniform(0, self._pause))

    def _count(self, how: str) -> None:
        self.answers[how] = self.answers.get(how, 0) + 1

    # --- what is asked for

    def _set_one(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        self._set(stub, {self._rng.choice(self._residents): self._any_target()})

    def _set_some(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        count = min(len(self._residents), self._rng.randint(2, 4))
        self._set(stub, {i: self._any_target() for i in self._rng.sample(self._residents, count)})

    def _set_all(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        target = self._any_target()
        change = pb.TargetChange(all=True, target_state=_WORDS[target])
        targets = dict.fromkeys(self._residents, target)
        with self._model.alone([*targets, *self._guests]):
            self._ask(
                f"all {target}", targets, self._guests,
                lambda: stub.Update(pb.UpdateRequest(requests=[change]), timeout=_TIMEOUT),
            )  # fmt: skip

    def _any_target(self) -> str:
        return UP if self._rng.random() < 0.6 else DOWN

    def _set(self, stub: pb_grpc.HostManagerServiceStub, targets: dict[str, str]) -> None:
        changes = [
            pb.TargetChange(instance_id=i, target_state=_WORDS[target]) for i, target in targets.items()
        ]
        with self._model.alone(targets):
            self._ask(
                "targets", targets, (),
                lambda: stub.Update(pb.UpdateRequest(requests=changes), timeout=_TIMEOUT),
            )  # fmt: skip

    def _restart(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        everybody = self._rng.random() < 0.15
        chosen = [*self._residents, *self._guests] if everybody else [self._rng.choice(self._residents)]
        request = pb.RestartRequest(all=True) if everybody else pb.RestartRequest(instance_ids=chosen)
        with self._model.alone(chosen):
            self._ask("restart", {}, chosen, lambda: stub.Restart(request, timeout=_TIMEOUT))

    def _reload(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        with self._model.alone(self._guests):
            self._ground.write_site(guests=self._rng.random() < 0.5)
            self._ask(
                RELOAD, {}, self._guests,
                lambda: stub.Update(pb.UpdateRequest(reload_config=True), timeout=_TIMEOUT),
            )  # fmt: skip

    def _refused(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        """All or nothing: a request with one bad entry changes nothing."""
        good = pb.TargetChange(instance_id=self._rng.choice(self._residents), target_state=_WORDS[DOWN])
        bad = pb.TargetChange(instance_id="nobody", target_state=_WORDS[DOWN])
        try:
            stub.Update(pb.UpdateRequest(requests=[good, bad]), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            if error.code() in _LOST or error.code() is grpc.StatusCode.NOT_FOUND:
                return
            raise
        raise AssertionError("a request about an unknown instance was taken")

    def _status(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        stub.GetStatus(pb.GetStatusRequest(), timeout=_TIMEOUT)

    def _list(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        stub.ListInstances(pb.ListInstancesRequest(), timeout=_TIMEOUT)

    def _ask(
        self, what: str, targets: dict[str, str], stops: Sequence[str], call: Callable[[], object]
    ) -> None:
        entries = self._model.asking(what, targets, stops)
        try:
            call()
        except grpc.RpcError:
            self._model.lost(entries)
            raise
        self._model.answered(targets, entries)
