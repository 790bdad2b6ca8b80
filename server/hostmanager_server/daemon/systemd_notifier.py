"""Notifications to systemd: readiness, status, reloads and the watchdog.

The notifier lives on the event loop. If systemd did not start the daemon, the notifier sends nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum

from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Instance, Outcome, State
from hostmanager_server.core.spec import Target
from hostmanager_server.linux import sd_notify
from hostmanager_server.linux.sd_notify import NotifySocket
from hostmanager_server.state.store import Snapshot, Store

# Queues a callback for the supervisor's thread.
CallSupervisor = Callable[[Callable[[], None]], None]

_STATUS_INTERVAL = 1.0  # s at least between two status texts
_RETRY = 1.0  # s until the notifier repeats a message that systemd did not take
_KEEPALIVE_INTERVAL = 5.0  # s between two keepalives while the daemon starts or stops
_KEEPALIVE_TIMEOUT = 30.0  # s after such a keepalive until systemd may give up on the daemon
_NAMED = 3  # instances that a status text names


class _Phase(Enum):
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class SystemdNotifier:
    """Sends systemd the state of the daemon, and keepalives.

    The state is readiness, the number of instances that are up, and the daemon's end.

    Each keepalive passes through both threads of the daemon: the event loop requests one, the supervisor's
    thread passes the request on, and the event loop sends the message. If either thread hangs, systemd gets
    no keepalive, and acts.
    """

    def __init__(self, environ: Mapping[str, str], store: Store) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._socket = NotifySocket.from_environment(environ)
        self._watchdog = sd_notify.watchdog_interval(environ, os.getpid())
        self._phase = _Phase.STARTING
        self._unsent: list[tuple[str, ...]] = []
        self._retry: asyncio.TimerHandle | None = None
        self._status = ""
        self._status_timer: asyncio.TimerHandle | None = None
        self._keepalive_timer: asyncio.TimerHandle | None = None
        self._call_supervisor: CallSupervisor | None = None
        self._keepalive_requested = False

    # --- phases of the daemon

    def starting(self, call_supervisor: CallSupervisor) -> None:
        """Begin to send keepalives.

        `call_supervisor` runs a callback on the supervisor's thread.
        """
        if self._socket is None:
            return
        self._call_supervisor = call_supervisor
        self._store.subscribe(self._on_publish)
        self._request_keepalive()

    def ready(self) -> None:
        """Report that the daemon serves."""
        if self._socket is None:
            return
        self._phase = _Phase.SERVING
        self._status = _status_text(self._store.snapshot())
        self._send(sd_notify.READY, sd_notify.status(self._status))
        self._request_keepalive()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Report a reload of the site config for the duration of the context."""
        if self._phase is _Phase.SERVING:
            self._send(sd_notify.reloading())
        try:
            yield
        finally:
            if self._phase is _Phase.SERVING:
                self._send(sd_notify.READY)

    def upgrading(self) -> None:
        """Report an upgrade of the daemon in place.

        The process executes the installed code, and then is `ready` again. The message includes a keepalive,
        as the daemon sends none until then.
        """
        self._send(sd_notify.reloading(), sd_notify.WATCHDOG, sd_notify.status("Upgrading"))

    def stopping(self) -> None:
        """Report that the daemon stops its instances and ends."""
        self._phase = _Phase.STOPPING
        self._send(sd_notify.STOPPING, sd_notify.extend_timeout(_KEEPALIVE_TIMEOUT))
        self._request_keepalive()

    def close(self) -> None:
        """Close the socket; the notifier sends nothing after that."""
        if self._socket is None:
            return
        self._store.unsubscribe(self._on_publish)
        self._call_supervisor = None
        for timer in (self._retry, self._status_timer, self._keepalive_timer):
            if timer is not None:
                timer.cancel()
        self._socket.close()
        self._socket = None

    # --- keepalives

    def _keepalive_interval(self) -> float | None:
        match self._phase:
            case _Phase.STARTING | _Phase.STOPPING:
                return _KEEPALIVE_INTERVAL
            case _Phase.SERVING:
                return None if self._watchdog is None else self._watchdog / 2

    def _request_keepalive(self) -> None:
        """Request a keepalive now, and the next one before systemd's timeout."""
        if self._keepalive_timer is not None:
            self._keepalive_timer.cancel()
            self._keepalive_timer = None
        if self._call_supervisor is None or self._keepalive_requested or self._keepalive_interval() is None:
            return
        self._keepalive_requested = True
        self._call_supervisor(self._pass_on_keepalive)

    def _pass_on_keepalive(self) -> None:  # on the supervisor's thread
        self._call_soon(self._send_keepalive)

    def _send_keepalive(self) -> None:
        self._keepalive_requested = False
        interval = self._keepalive_interval()
        if self._socket is None or interval is None:
            return
        if self._phase is _Phase.SERVING:
            self._socket.send(sd_notify.WATCHDOG)  # after a lost message, the next one is still in time
        else:
            self._socket.send(sd_notify.extend_timeout(_KEEPALIVE_TIMEOUT))
        self._keepalive_timer = self._loop.call_later(interval, self._request_keepalive)

    # --- status

    def _on_publish(self) -> None:  # on the publishing thread
        self._call_soon(self._schedule_status)

    def _schedule_status(self) -> None:
        if self._status_timer is None and self._socket is not None:
            self._status_timer = self._loop.call_later(_STATUS_INTERVAL, self._send_status)

    def _send_status(self) -> None:
        self._status_timer = None
        text = _status_text(self._store.snapshot())
        if text != self._status:
            self._status = text
            self._send(sd_notify.status(text))

    # --- sending

    def _send(self, *lines: str) -> None:
        """Send messages in order, and repeat a message that systemd cannot take now."""
        if self._socket is None:
            return
        self._unsent.append(lines)
        if self._retry is None:
            self._flush()

    def _flush(self) -> None:
        self._retry = None
        while self._unsent and self._socket is not None:
            if not self._socket.send(*self._unsent[0]):
                self._retry = self._loop.call_later(_RETRY, self._flush)
                return
            del self._unsent[0]

    def _call_soon(self, callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the daemon has ended
            self._loop.call_soon_threadsafe(callback)


def _status_text(snapshot: Snapshot) -> str:
    """Describe how many of the wanted instances are up, and name some that are not."""
    instances = [tracked.instance for tracked in snapshot.instances.values()]
    wanted = [
        instance for instance in instances if instance.wanted.target is Target.UP and not instance.retired
    ]
    missing = sorted(i.instance_id for i in wanted if not _is_up(i))
    up = f"{len(wanted) - len(missing)} of {len(wanted)} instances up"
    if missing:
        names = ", ".join(missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        up += f", without {names}{more}"
    match snapshot.manager.state:
        case ManagerState.RUNNING:
            broken = any(not status.success for status in snapshot.manager.parse_status.values())
            return f"{up}; cannot use the site config" if broken else up
        case ManagerState.STOPPING:
            running = sum(instance.observed.run is not None for instance in instances)
            return f"Stopping all instances: {running} of {len(instances)} still run"
        case ManagerState.STOPPED:
            return "The manager is stopped"


def _is_up(instance: Instance) -> bool:
    return instance.next_action is State.UP or instance.standing.outcome is Outcome.COMPLETED
