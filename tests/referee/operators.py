"""Operators: clients that send random requests all the time, to live and dead daemons."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee.daemons import listens, open_channel
from tests.referee.host import Host
from tests.referee.target_model import DOWN, RELOAD, UP, Targets

_WORDS = {UP: pb.TARGET_STATE_UP, DOWN: pb.TARGET_STATE_DOWN}
# The status codes of a dying or missing daemon; the daemon itself sends every other code.
_LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
_TIMEOUT = 20.0  # s


class OperatorGate:
    """A gate that admits workers, or waits until all have left."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open = False
        self._over = False
        self._working = 0

    def enter(self) -> bool:
        """Wait for the gate to open and enter; return False after `finish`."""
        with self._condition:
            self._condition.wait_for(lambda: self._open or self._over)
            if self._over:
                return False
            self._working += 1
            return True

    def leave(self) -> None:
        """Leave the gate after one piece of work."""
        with self._condition:
            self._working -= 1
            self._condition.notify_all()

    def open(self) -> None:
        """Admit workers."""
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def close(self, patience: float) -> None:
        """Admit no more workers, and wait until all have left."""
        with self._condition:
            self._open = False
            if not self._condition.wait_for(lambda: self._working == 0, patience):
                raise TimeoutError(f"a request takes longer than {patience:g} s")

    def finish(self) -> None:
        """Send all workers away for good."""
        with self._condition:
            self._over = True
            self._condition.notify_all()


class Operator(threading.Thread):
    """A client that draws requests from `rng`, with at most `pause` s in between."""

    def __init__(
        self,
        host: Host,
        model: Targets,
        gate: OperatorGate,
        rng: random.Random,
        number: int,
        pause: float = 0.04,
    ) -> None:
        super().__init__(name=f"operator-{number}", daemon=True)
        self._host = host
        self._model = model
        self._gate = gate
        self._rng = rng
        self._pause = pause
        self._rest = threading.Event()
        self._residents = [agent.instance for agent in host.agents if not agent.guest]
        self._guests = [agent.instance for agent in host.agents if agent.guest]
        self._actions: Sequence[tuple[int, Callable[[pb_grpc.HostManagerServiceStub], None]]] = (
            (40, self._set_one), (10, self._set_some), (4, self._set_all), (10, self._restart),
            (8, self._reload), (10, self._status), (10, self._list), (4, self._refused),
        )  # fmt: skip
        self.answers: dict[str, int] = {}  # number of requests by status code
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Send requests while the gate is open."""
        with open_channel(self._host) as channel:
            stub = pb_grpc.HostManagerServiceStub(channel)
            weights = [weight for weight, _ in self._actions]
            while self._gate.enter():
                try:
                    if not listens(self._host):
                        continue
                    (_, action) = self._rng.choices(self._actions, weights)[0]
                    action(stub)
                    self._count("OK")
                except grpc.RpcError as error:
                    self._count(error.code().name)
                except BaseException as error:
                    self.failure = error
                    raise
                finally:
                    self._gate.leave()
                    self._rest.wait(self._rng.uniform(0, self._pause))

    def _count(self, code: str) -> None:
        self.answers[code] = self.answers.get(code, 0) + 1

    # --- requests

    def _set_one(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        self._set(stub, {self._rng.choice(self._residents): self._any_target()})

    def _set_some(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        count = min(len(self._residents), self._rng.randint(2, 4))
        self._set(stub, {i: self._any_target() for i in self._rng.sample(self._residents, count)})

    def _set_all(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        target = self._any_target()
        change = pb.TargetChange(all=True, target_state=_WORDS[target])
        targets = dict.fromkeys(self._residents, target)
        with self._model.exclusive([*targets, *self._guests]):
            self._send(
                f"all {target}", targets, self._guests,
                lambda: stub.Update(pb.UpdateRequest(requests=[change]), timeout=_TIMEOUT),
            )  # fmt: skip

    def _any_target(self) -> str:
        return UP if self._rng.random() < 0.6 else DOWN

    def _set(self, stub: pb_grpc.HostManagerServiceStub, targets: dict[str, str]) -> None:
        changes = [
            pb.TargetChange(instance_id=i, target_state=_WORDS[target]) for i, target in targets.items()
        ]
        with self._model.exclusive(targets):
            self._send(
                "targets", targets, (),
                lambda: stub.Update(pb.UpdateRequest(requests=changes), timeout=_TIMEOUT),
            )  # fmt: skip

    def _restart(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        everything = self._rng.random() < 0.15
        chosen = [*self._residents, *self._guests] if everything else [self._rng.choice(self._residents)]
        request = pb.RestartRequest(all=True) if everything else pb.RestartRequest(instance_ids=chosen)
        with self._model.exclusive(chosen):
            self._send("restart", {}, chosen, lambda: stub.Restart(request, timeout=_TIMEOUT))

    def _reload(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        with self._model.exclusive(self._guests):
            self._host.write_site(guests=self._rng.random() < 0.5)
            self._send(
                RELOAD, {}, self._guests,
                lambda: stub.Update(pb.UpdateRequest(reload_config=True), timeout=_TIMEOUT),
            )  # fmt: skip

    def _refused(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        """Send a request with one bad entry, which must change nothing."""
        good = pb.TargetChange(instance_id=self._rng.choice(self._residents), target_state=_WORDS[DOWN])
        bad = pb.TargetChange(instance_id="unknown", target_state=_WORDS[DOWN])
        try:
            stub.Update(pb.UpdateRequest(requests=[good, bad]), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            if error.code() in _LOST or error.code() is grpc.StatusCode.NOT_FOUND:
                return
            raise
        raise AssertionError("the daemon accepted a request about an unknown instance")

    def _status(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        stub.GetStatus(pb.GetStatusRequest(), timeout=_TIMEOUT)

    def _list(self, stub: pb_grpc.HostManagerServiceStub) -> None:
        stub.ListInstances(pb.ListInstancesRequest(), timeout=_TIMEOUT)

    def _send(
        self, name: str, targets: dict[str, str], stops: Sequence[str], call: Callable[[], object]
    ) -> None:
        entries = self._model.begin(name, targets, stops)
        try:
            call()
        except grpc.RpcError:
            self._model.lose(entries)
            raise
        self._model.acknowledge(targets, entries)
