"""Hooks: commands of the site config that run when an instance fails or recovers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.failures import Failure, FailureWatch
from hostmanager_server.core.model import Instance
from hostmanager_server.core.spec import Hook, InstanceSpec
from hostmanager_server.daemon.hook_memory import HookMemory
from hostmanager_server.drivers.exec.hook_command import HookOutcome, run_hook
from hostmanager_server.linux.thread_names import name_this_thread
from hostmanager_server.rpc.errors import RpcError
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.state.store import Snapshot, Store

log = logging.getLogger(__name__)

AT_ONCE = 2  # hooks that run at the same time
PER_MINUTE = 30  # hooks that start within a minute; further ones wait
_ROUND = 0.1  # s between two looks at changes, so that a storm of events costs few looks
_GRACE = 5.0  # s for running hooks when the daemon ends or is upgraded
_LONGEST_VALUE = 4000  # characters of a variable
_THREAD = "hooks"


class HookRunner:
    """The follower of failures, on the event loop; the commands run on threads of their own."""

    def __init__(
        self, store: Store, hub: Hub, memory: HookMemory, write_entry: Callable[[LogEntry], object],
        now: Callable[[], Instant], inherited: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Start nothing yet."""
        self._store, self._hub, self._memory = store, hub, memory
        self._write_entry = write_entry
        self._now = now
        self._inherited = inherited
        self._watch = FailureWatch()
        self._specs: dict[str, InstanceSpec] = {}  # of failing instances, which may be removed meanwhile
        self._running: dict[str, asyncio.Future[HookOutcome]] = {}  # by instance
        self._started: deque[float] = deque(maxlen=PER_MINUTE)  # monotonic
        self._wake = asyncio.Event()
        self._threads: ThreadPoolExecutor | None = None  # None before the first hook
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    async def follow(self) -> None:
        """Follow the events until the hub closes; call once the manager has started."""
        self._watch.failures = self._memory.load()
        cursor = self._store.last_sequence
        with self._hub.watcher(silence=math.inf, of_client=False) as watcher, suppress(RpcError):
            snapshot = self._store.snapshot()
            self._observe(snapshot, {*snapshot.instances, *self._watch.failures})
            while True:
                revision = self._hub.revision
                snapshot = self._store.snapshot()
                batch = self._store.events_since(cursor)
                cursor = batch.last
                changed = {event.entry.instance_id for event in batch.events}
                self._observe(snapshot, set(snapshot.instances) if batch.missed else changed)
                self._observe(snapshot, set(self._watch.failures))
                self._start_hooks(snapshot)
                await self._wait(watcher.wait(revision), snapshot)
                await asyncio.sleep(_ROUND)

    async def close(self) -> None:
        """Wait a moment for running hooks, then kill them."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=_GRACE)
        os.eventfd_write(self._stop, 1)
        if self._running:
            await asyncio.wait(self._running.values())
        if self._threads is not None:
            self._threads.shutdown()
        os.close(self._stop)

    def _observe(self, snapshot: Snapshot, ids: set[str]) -> None:
        now = self._now()
        for instance_id in ids:
            tracked = snapshot.instances.get(instance_id)
            instance = None if tracked is None else tracked.instance
            if instance is None and instance_id not in self._specs:
                # Gone while no daemon ran: the command of a former config must not run.
                self._watch.failures.pop(instance_id, None)
                continue
            if instance is not None:
                if not _has_hooks(instance) and instance_id not in self._watch.failures:
                    continue
                self._specs[instance_id] = instance.spec
            self._watch.observe(instance_id, instance, now)
            if instance_id not in self._watch.failures:
                self._specs.pop(instance_id, None)

    def _start_hooks(self, snapshot: Snapshot) -> None:
        """Start the hooks that are due, within the limits."""
        for instance_id in self._watch.untold():
            failure = self._watch.failures[instance_id]
            hook = _hook(self._specs[instance_id], failure)
            if hook is None or not hook.argv:
                self._watch.told(instance_id)
                continue
            if instance_id in self._running or len(self._running) >= AT_ONCE or self._next_start() > 0.0:
                continue
            tracked = snapshot.instances.get(instance_id)
            self._watch.told(instance_id)
            self._memory.keep(self._watch.failures)  # before the start, so that no crash repeats a hook
            self._start(instance_id, failure, hook, None if tracked is None else tracked.instance)
        self._memory.keep(self._watch.failures)

    def _start(self, instance_id: str, failure: Failure, hook: Hook, instance: Instance | None) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(AT_ONCE, _THREAD, name_this_thread, (_THREAD,))
        self._started.append(self._now().mono)
        document = _document(instance_id, failure, instance, self._specs.get(instance_id), self._host())
        data = (json.dumps(document) + "\n").encode()
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, run_hook, hook, _variables(document), data, self._inherited, self._stop
        )
        self._running[instance_id] = future
        kind = "on-recover" if failure.recovered else "on-failure"
        future.add_done_callback(lambda done: self._ended(instance_id, kind, hook, done.result()))

    def _host(self) -> str:
        return self._store.snapshot().manager.host or socket.gethostname()

    def _ended(self, instance_id: str, kind: str, hook: Hook, outcome: HookOutcome) -> None:
        self._running.pop(instance_id, None)
        self._wake.set()
        if outcome.problem:
            entry = LogEntry(
                EntryKind.INSTANCE, "HookFailed", f"{kind}: {outcome.problem}", self._now(), instance_id,
                Severity.WARNING,
            )  # fmt: skip
        else:
            message = f"{kind}: {hook.argv[0]!r} ended with code 0 after {outcome.seconds:.1f} s"
            entry = LogEntry(EntryKind.INSTANCE, "HookRan", message, self._now(), instance_id)
        self._write_entry(entry)

    def _next_start(self) -> float:
        """Return the time in s until another hook may start."""
        if len(self._started) < PER_MINUTE:
            return 0.0
        return max(0.0, self._started[0] + 60.0 - self._now().mono)

    async def _wait(self, change: Any, snapshot: Snapshot) -> None:
        """Wait for a change, the end of a hook, or the time of the next decision."""
        now = self._now().mono
        instances = {
            each: snapshot.instances[each].instance
            for each in self._watch.failures
            if each in snapshot.instances
        }
        ends = self._watch.next_end(instances)
        waits = [] if ends is None else [max(0.0, ends - now)]
        if self._watch.untold() and (pause := self._next_start()) > 0.0:
            waits.append(pause)
        self._wake.clear()
        tasks = {asyncio.ensure_future(change), asyncio.ensure_future(self._wake.wait())}
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=min(waits, default=None), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
        for task in done:
            task.result()  # raises RpcError when the hub closes


def _has_hooks(instance: Instance) -> bool:
    spec = instance.spec
    return any(hook is not None and hook.argv for hook in (spec.on_failure, spec.on_recover))


def _hook(spec: InstanceSpec, failure: Failure) -> Hook | None:
    return spec.on_recover if failure.recovered else spec.on_failure


def _document(
    instance_id: str, failure: Failure, instance: Instance | None, spec: InstanceSpec | None, host: str
) -> dict[str, Any]:
    """Return the facts for the command, as JSON values."""
    last = None if instance is None else instance.observed.last_exit
    return {
        "event": "recover" if failure.recovered else "failure",
        "host": host,
        "instance_id": instance_id,
        "agent_class": "" if spec is None else spec.agent_class,
        "reason": failure.recovered or failure.reason,
        "message": _recovery(failure) if failure.recovered else failure.message,
        "failure_reason": failure.reason,
        "since": _time(failure.since),
        "target_state": None if instance is None else instance.wanted.target.value,
        "state": None if instance is None else instance.next_action.value,
        "consecutive_failures": 0 if instance is None else instance.standing.failures,
        "last_exit": None
        if last is None
        else {
            "time": _time(last.at.wall),
            "code": last.status.code,
            "signal": last.status.signal,
            "message": last.why,
            "last_output": last.last_output,
        },
    }


_RECOVERIES = {
    "Up": "up again",
    "Finished": "finished",
    "TargetDown": "not wanted any longer: its target is down",
    "Removed": "no longer in the site config",
}


def _recovery(failure: Failure) -> str:
    return f"{_RECOVERIES.get(failure.recovered, failure.recovered)}; before: {failure.message}"


def _variables(document: Mapping[str, Any]) -> dict[str, str]:
    last = document["last_exit"] or {}
    values = {
        "EVENT": document["event"],
        "HOST": document["host"],
        "INSTANCE": document["instance_id"],
        "CLASS": document["agent_class"],
        "REASON": document["reason"],
        "MESSAGE": document["message"],
        "SINCE": document["since"],
        "TARGET": document["target_state"] or "",
        "STATE": document["state"] or "",
        "FAILURES": str(document["consecutive_failures"]),
        "LAST_EXIT": last.get("message", ""),
        "LAST_OUTPUT": last.get("last_output", ""),
    }
    return {f"HOSTMANAGER_{name}": _value(value) for name, value in values.items()}


def _value(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:_LONGEST_VALUE]


def _time(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
