"""Base of watchers: clients of a stream that reconnect after each death of the daemon."""

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
from tests.referee.host import Host
from tests.referee.invariants import Breach, Invariant

Message = TypeVar("Message")
Message_co = TypeVar("Message_co", covariant=True)

_RECONNECT = 0.03  # s from a lost connection to the next attempt
_KEPT = 30  # trace lines kept as evidence


class WatchStream(Protocol[Message_co]):
    """A stream of messages from the server."""

    def __iter__(self) -> Iterator[Message_co]: ...
    def cancel(self) -> object: ...


class RefereeWatcher(threading.Thread, Generic[Message]):
    """A thread that follows one stream until `finish`.

    `disconnect_after` is the longest time in s after which the watcher disconnects and connects again; with
    0 the watcher stays until the daemon ends.
    """

    def __init__(self, host: Host, rng: random.Random, name: str, disconnect_after: float = 0.0) -> None:
        super().__init__(name=name, daemon=True)
        self._host = host
        self._rng = rng
        self._disconnect_after = disconnect_after
        self._over = threading.Event()
        self._may_connect = threading.Event()
        self._may_connect.set()
        self._disconnected = threading.Event()
        self._call: WatchStream[Message] | None = None
        self._lock = threading.Lock()
        self.token = ""
        self.messages = 0
        self.connections = 0
        self.trace: deque[str] = deque(maxlen=_KEPT)
        self.violation: BaseException | None = None

    def run(self) -> None:
        """Follow the stream, and connect again after each loss."""
        while not self._over.is_set():
            if not self._may_connect.is_set():
                self._disconnected.set()
                self._may_connect.wait(0.5)
                continue
            self._disconnected.clear()
            if not listens(self._host):
                self._over.wait(_RECONNECT)
                continue
            try:
                self._watch()
            except grpc.RpcError as error:
                self._trace(" ".join(str(error).split())[:100])
                self._over.wait(_RECONNECT)
            except BaseException as error:
                self.violation = error
                return

    def pause(self) -> None:
        """Disconnect, and stay so until `resume`."""
        self._may_connect.clear()
        self.disconnect()
        if not self._disconnected.wait(30) and self.violation is None:
            raise TimeoutError(f"{self.name} does not disconnect")

    def resume(self) -> None:
        """Connect again."""
        self._disconnected.clear()
        self._may_connect.set()

    def finish(self) -> None:
        """Disconnect for good and end the thread."""
        self._over.set()
        self._may_connect.set()
        self.disconnect()

    def raise_violation(self) -> None:
        """Raise the violation or failure of this thread, if any."""
        if self.violation is not None:
            raise self.violation

    def _trace(self, text: object) -> None:
        self.trace.append(f"{proc.now():.3f} connection {self.connections}: {text}")

    def evidence(self) -> tuple[str, ...]:
        """Return the last trace lines."""
        return tuple(f"{self.name}: {line}" for line in self.trace)

    def _watch(self) -> None:
        with open_channel(self._host) as channel:
            stream = self._open(pb_grpc.HostManagerServiceStub(channel))
            with self._lock:
                self._call = stream
            timer: threading.Timer | None = None
            if self._disconnect_after:
                timer = threading.Timer(self._rng.uniform(0, self._disconnect_after), stream.cancel)
                timer.start()
            try:
                if self._over.is_set() or not self._may_connect.is_set():
                    return
                self.connections += 1
                self._trace("connects")
                self._read(stream)
                self._trace("the daemon ended the stream")
            finally:
                stream.cancel()
                if timer is not None:
                    timer.cancel()

    def disconnect(self) -> None:
        """Cancel the present stream."""
        with self._lock:
            if self._call is not None:
                self._call.cancel()

    def _open(self, stub: pb_grpc.HostManagerServiceStub) -> WatchStream[Message]:
        raise AssertionError("a subclass opens its stream")

    def _read(self, stream: WatchStream[Message]) -> None:
        raise AssertionError("a subclass reads its stream")

    def _protocol_error(self, what: str) -> Breach:
        return Breach(Invariant.I4, f"{self.name}: {what}", self.evidence())
