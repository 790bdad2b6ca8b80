"""The service manager above the daemon (systemd), and what it is told.

Everything here lives on the event loop. When no service manager has started the daemon, nothing happens.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum

from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Instance, State
from hostmanager_server.core.spec import Target
from hostmanager_server.linux import sd_notify
from hostmanager_server.linux.sd_notify import NotifySocket
from hostmanager_server.state.store import Snapshot, Store

# What is to be run on the supervisor's thread in its turn.
SendText = Callable[[Callable[[], None]], None]

_STATUS_EVERY = 1.0  # s at least between two lines of status
_RETRY = 1.0  # s until something is said again that could not be said
_SIGN_EVERY = 5.0  # s between two signs of life while everything starts or stops
_SIGN_HOLDS = 30.0  # s until the service manager may give the daemon up after such a sign
_NAMED = 3  # instances that a line of status names


class _Phase(Enum):
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class SystemdNotifier:
    """Tells the service manager that the daemon serves, how many instances are up, that it ends, and, over
    and over, that both of its threads go round.

    A sign of life is asked for by the event loop, passed on by the supervisor in its turn, and sent by the
    event loop again: when either of them hangs, the service manager hears nothing, and acts.
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
        self._sign_timer: asyncio.TimerHandle | None = None
        self._post: SendText | None = None
        self._sign_asked_for = False

    # --- what the daemon goes through

    def starting(self, post: SendText) -> None:
        """The supervisor runs; `post` reaches it."""
        if self._socket is None:
            return
        self._post = post
        self._store.subscribe(self._published)
        self._ask_for_sign()

    def ready(self) -> None:
        """The daemon serves."""
        if self._socket is None:
            return
        self._phase = _Phase.SERVING
        self._status = _in_words(self._store.snapshot())
        self._say(sd_notify.READY, sd_notify.status(self._status))
        self._ask_for_sign()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The site config is read anew within."""
        if self._phase is _Phase.SERVING:
            self._say(sd_notify.reloading())
        try:
            yield
        finally:
            if self._phase is _Phase.SERVING:
                self._say(sd_notify.READY)

    def replacing(self) -> None:
        """The daemon is about to execute itself anew in its own process, which then is `ready` again. Until
        then it gives no sign of life, so this is one."""
        self._say(sd_notify.reloading(), sd_notify.WATCHDOG, sd_notify.status("Executing itself anew"))

    def stopping(self) -> None:
        """The daemon brings down what is to be down, and ends."""
        self._phase = _Phase.STOPPING
        self._say(sd_notify.STOPPING, sd_notify.extend_timeout(_SIGN_HOLDS))
        self._ask_for_sign()

    def close(self) -> None:
        """Nothing is said any more."""
        if self._socket is None:
            return
        self._store.unsubscribe(self._published)
        self._post = None
        for timer in (self._retry, self._status_timer, self._sign_timer):
            if timer is not None:
                timer.cancel()
        self._socket.close()
        self._socket = None

    # --- signs of life

    def _sign_every(self) -> float | None:
        match self._phase:
            case _Phase.STARTING | _Phase.STOPPING:
                return _SIGN_EVERY
            case _Phase.SERVING:
                return None if self._watchdog is None else self._watchdog / 2

    def _ask_for_sign(self) -> None:
        """Now, and then in good time again and again."""
        if self._sign_timer is not None:
            self._sign_timer.cancel()
            self._sign_timer = None
        if self._post is None or self._sign_asked_for or self._sign_every() is None:
            return
        self._sign_asked_for = True
        self._post(self._pass_on_sign)

    def _pass_on_sign(self) -> None:  # on the supervisor's thread
        self._call_soon(self._give_sign)

    def _give_sign(self) -> None:
        self._sign_asked_for = False
        every = self._sign_every()
        if self._socket is None or every is None:
            return
        if self._phase is _Phase.SERVING:
            self._socket.send(sd_notify.WATCHDOG)  # one that is lost is followed by another in time
        else:
            self._socket.send(sd_notify.extend_timeout(_SIGN_HOLDS))
        self._sign_timer = self._loop.call_later(every, self._ask_for_sign)

    # --- status

    def _published(self) -> None:  # on the thread that publishes
        self._call_soon(self._status_may_differ)

    def _status_may_differ(self) -> None:
        if self._status_timer is None and self._socket is not None:
            self._status_timer = self._loop.call_later(_STATUS_EVERY, self._tell_status)

    def _tell_status(self) -> None:
        self._status_timer = None
        text = _in_words(self._store.snapshot())
        if text != self._status:
            self._status = text
            self._say(sd_notify.status(text))

    # --- saying it

    def _say(self, *lines: str) -> None:
        """In order, and again when the service manager cannot take it now."""
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


def _in_words(snapshot: Snapshot) -> str:
    """How many instances are up of those that are to be, and which are not."""
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
            return f"{up}; the site config cannot be used" if broken else up
        case ManagerState.STOPPING:
            running = sum(instance.observed.run is not None for instance in instances)
            return f"Bringing everything down: {running} of {len(instances)} instances still run"
        case ManagerState.STOPPED:
            return "The manager sleeps"


def _is_up(instance: Instance) -> bool:
    return instance.next_action is State.UP or instance.standing.finished
