"""A client that watches across the deaths of the daemon: what all watchers have in common."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

import grpc
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import listens, open_channel
from tests.referee.ground import Ground
from tests.referee.verdict import Invariant, Violation

Message = TypeVar("Message")
Said_co = TypeVar("Said_co", covariant=True)

_AGAIN = 0.03  # s until a lost connection is tried again
_KEPT = 30  # messages kept as evidence


class Stream(Protocol[Said_co]):
    """A server's stream."""

    def __iter__(self) -> Iterator[Said_co]: ...
    def cancel(self) -> object: ...


class Watcher(threading.Thread, Generic[Message]):
    """Watches until told to finish. `hangs_up`: the longest time in s after which it leaves by itself, and
    comes back; 0: only when the daemon goes."""

    def __init__(self, ground: Ground, rng: random.Random, name: str, hangs_up: float = 0.0) -> None:
        super().__init__(name=name, daemon=True)
        self._ground = ground
        self._rng = rng
        self._hangs_up = hangs_up
        self._over = threading.Event()
        self._may_watch = threading.Event()
        self._may_watch.set()
        self._resting = threading.Event()
        self._call: Stream[Message] | None = None
        self._lock = threading.Lock()
        self.token = ""
        self.messages = 0
        self.connections = 0
        self.trace: deque[str] = deque(maxlen=_KEPT)
        self.violation: BaseException | None = None

    def run(self) -> None:
        while not self._over.is_set():
            if not self._may_watch.is_set():
                self._resting.set()
                self._may_watch.wait(0.5)
                continue
            self._resting.clear()
            if not listens(self._ground):
                self._over.wait(_AGAIN)
                continue
            try:
                self._watch()
            except grpc.RpcError as error:
                self._remember(" ".join(str(error).split())[:100])
                self._over.wait(_AGAIN)
            except BaseException as error:
                self.violation = error
                return

    def rest(self) -> None:
        """Hang up, and stay away until `resume`."""
        self._may_watch.clear()
        self.hang_up()
        if not self._resting.wait(30) and self.violation is None:
            raise TimeoutError(f"{self.name} does not hang up")

    def resume(self) -> None:
        self._resting.clear()
        self._may_watch.set()

    def finish(self) -> None:
        self._over.set()
        self._may_watch.set()
        self.hang_up()

    def must_be_content(self) -> None:
        """Raises what it found wrong."""
        if self.violation is not None:
            raise self.violation

    def _remember(self, what: object) -> None:
        self.trace.append(f"{proc.now():.3f} connection {self.connections}: {what}")

    def evidence(self) -> tuple[str, ...]:
        return tuple(f"{self.name}: {line}" for line in self.trace)

    def _watch(self) -> None:
        with open_channel(self._ground) as channel:
            stream = self._open(pb_grpc.HostManagerServiceStub(channel))
            with self._lock:
                self._call = stream
            timer: threading.Timer | None = None
            if self._hangs_up:
                timer = threading.Timer(self._rng.uniform(0, self._hangs_up), stream.cancel)
                timer.start()
            try:
                if self._over.is_set() or not self._may_watch.is_set():
                    return
                self.connections += 1
                self._remember("asks")
                self._read(stream)
                self._remember("the daemon has nothing more to say")
            finally:
                stream.cancel()
                if timer is not None:
                    timer.cancel()

    def hang_up(self) -> None:
        with self._lock:
            if self._call is not None:
                self._call.cancel()

    def _open(self, stub: pb_grpc.HostManagerServiceStub) -> Stream[Message]:
        raise AssertionError("a subclass opens its stream")

    def _read(self, stream: Stream[Message]) -> None:
        raise AssertionError("a subclass reads its stream")

    def _wrong(self, what: str) -> Violation:
        return Violation(Invariant.I4, f"{self.name}: {what}", self.evidence())
