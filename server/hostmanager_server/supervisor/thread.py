"""The supervisor as other threads see it: requests in, futures out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from hostmanager_server.core import plan
from hostmanager_server.core.actions import Kind, Note, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager import SCF, Manager, ManagerState, ParseStatus, Problem
from hostmanager_server.core.model import Instance, Phase, Run, State
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, Target
from hostmanager_server.drivers.base import Driver, Poller, Post
from hostmanager_server.store import Store
from hostmanager_server.supervisor.engine import Engine
from hostmanager_server.supervisor.loop import Loop, now
from hostmanager_server.supervisor.requests import (
    Accepted,
    ConfigError,
    InvalidRequestError,
    WrongStateError,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

CallSoon = Callable[[Callable[[], None]], None]


class Config(Protocol):
    """A site config as it was read. `spec` is None when it has errors."""

    @property
    def spec(self) -> HostSpec | None: ...
    @property
    def problems(self) -> tuple[Problem, ...]: ...
    @property
    def file(self) -> str: ...
    @property
    def host(self) -> str: ...


class Supervisor:
    """Runs the engine on a thread of its own. Every method may be called from any thread and returns at once;
    a future fails with a RequestError when the request is rejected.

    `load_config` is called on a thread of its own for each reload, one at a time. `on_failure` is called on
    the supervisor's thread should that end by a bug; the daemon is of no use from then on.
    """

    def __init__(
        self,
        store: Store,
        load_config: Callable[[], Config],
        make_driver: Callable[[Poller, Post, CallSoon], Driver],
        on_failure: Callable[[], None],
    ) -> None:
        self._on_failure = on_failure
        self._store = store
        self._load_config = load_config
        self._loop = Loop()
        self._engine = Engine(store, now)
        self._engine.driver = make_driver(self._loop, self._engine.post, self._loop.call_soon)
        self._loader = ThreadPoolExecutor(1, "config-loader")
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._manager = store.snapshot().manager
        self._stopped: list[Future[Accepted]] = []  # who waits for the manager to be stopped
        self._adopted = False

    def start(self) -> None:
        """Start the thread; the manager is stopped until `start_manager`."""
        self._thread.start()

    def close(self, *, disown: bool = False) -> None:
        """End the thread and release everything. With `disown` what runs is left to the next daemon; without
        it nothing may run any more. Waits for the thread."""

        def last() -> None:
            if disown:
                self._engine.driver.disown()
            self._engine.driver.close()

        if self._thread.is_alive():
            self._loop.call_soon(last)
            self._loop.stop()
            self._thread.join()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    # --- requests

    def start_manager(
        self, changes: Sequence[TargetChange] = (), *, reload_config: bool = True, tolerant: bool = False
    ) -> Future[Accepted]:
        """Start the manager. `tolerant`: a config with errors is not a reason to refuse; the manager then
        runs with no instances until a reload finds a good one."""
        return self._with_config(reload_config, lambda config: self._start_manager(config, changes, tolerant))

    def stop_manager(self) -> Future[Accepted]:
        """Bring everything down; the future is done when everything is."""
        future: Future[Accepted] = Future()
        self._loop.call_soon(lambda: self._stop_manager(future))
        return future

    def update(
        self,
        changes: Sequence[TargetChange] = (),
        *,
        reload_config: bool = False,
        validate_only: bool = False,
    ) -> Future[Accepted]:
        """Change targets, in order, after reading the config anew if asked to. All or nothing."""
        return self._with_config(reload_config, lambda config: self._update(config, changes, validate_only))

    def restart(self, instance_ids: Sequence[str] | None) -> Future[Accepted]:
        """Take instances down and up again; None: all that are operable and whose target is up."""
        return self._call(lambda: self._restart(instance_ids))

    def note(self, note: Note) -> None:
        """Put something into the event log."""

        def put() -> None:
            self._engine.note(note)

        self._loop.call_soon(put)

    # --- getting onto the thread

    def _call(self, request: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # whoever asked has left before it was begun
            try:
                result = request()
            except BaseException as error:  # whoever asked is told, whatever it is
                future.set_exception(error)
            else:
                future.set_result(result)

        self._loop.call_soon(run)
        return future

    def _with_config(
        self, reload_config: bool, request: Callable[[Config | None], Accepted]
    ) -> Future[Accepted]:
        if not reload_config:
            return self._call(lambda: request(None))
        future: Future[Accepted] = Future()

        def load() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                config = self._load_config()
            except BaseException as error:  # whoever asked is told, whatever it is
                future.set_exception(error)
                return
            self._call(lambda: request(config)).add_done_callback(lambda done: _copy(done, future))

        self._loader.submit(load)
        return future

    def _run(self) -> None:
        with suppress(OSError):  # so that `top -H` shows which thread it is
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("supervisor")
        try:
            self._loop.run(self._step)
        except BaseException:
            log.critical("the supervisor ended by a bug: nothing is supervised any more", exc_info=True)
            self._on_failure()

    def _step(self) -> float | None:
        more = self._engine.step()
        if self._manager.state is ManagerState.STOPPING and not more:
            self._finish_stopping()
        return 0.0 if more else self._engine.next_deadline()

    # --- on the thread

    def _start_manager(
        self, config: Config | None, changes: Sequence[TargetChange], tolerant: bool
    ) -> Accepted:
        if self._manager.state is not ManagerState.STOPPED:
            raise WrongStateError("start the manager", self._manager.state, "stop it first")
        if config is not None and config.spec is None and not tolerant:
            self._reject(config)
        known: set[str] = set()
        if config is None:
            known = set(self._engine.instances)
        elif config.spec is not None:
            known = {spec.instance_id for spec in config.spec.instances}
        _raise_if(plan.check_targets(known, changes))

        moment = now()
        self._set_manager(replace(self._manager, state=ManagerState.RUNNING))
        self._engine.note(Note(Kind.MANAGER, "Started", "the manager runs", moment))
        if config is not None:
            if self._adopted:
                self._engine.forget_all()
            self._take_config(config, moment)
        generations = self._set_targets(changes, moment)
        return Accepted(self._engine.publish(), generations, config.problems if config else ())

    def _update(
        self, config: Config | None, changes: Sequence[TargetChange], validate_only: bool
    ) -> Accepted:
        if self._manager.state is not ManagerState.RUNNING:
            raise WrongStateError("update", self._manager.state, "start it with StartManager")
        known = {i.instance_id for i in self._engine.instances.values() if not i.retired}
        if config is not None:
            if config.spec is None:
                self._reject(config)
            known = {spec.instance_id for spec in config.spec.instances}
        _raise_if(plan.check_targets(known, changes))
        warnings = config.problems if config is not None else ()
        if validate_only:
            return Accepted(self._store.revision, {}, warnings)
        moment = now()
        if config is not None:
            self._take_config(config, moment)
        generations = self._set_targets(changes, moment)
        return Accepted(self._engine.publish(), generations, warnings)

    def _restart(self, instance_ids: Sequence[str] | None) -> Accepted:
        if self._manager.state is not ManagerState.RUNNING:
            raise WrongStateError("restart", self._manager.state, "start it with StartManager")
        instances = self._engine.instances
        if instance_ids is None:
            chosen = [i for i in sorted(instances) if not plan.check_restart(instances, [i])]
        else:
            chosen = list(dict.fromkeys(instance_ids))
            _raise_if(plan.check_restart(instances, chosen))
        changed = plan.restart(instances, chosen)
        message = f"restart of {', '.join(chosen) or 'nothing'}"
        self._engine.apply(changed, [Note(Kind.REQUEST, "Restart", message, now())])
        return Accepted(self._engine.publish(), {i: changed[i].generation for i in chosen})

    def _stop_manager(self, future: Future[Accepted]) -> None:
        self._stopped.append(future)
        if self._manager.state is ManagerState.RUNNING:
            moment = now()
            self._adopt(HostSpec(self._manager.host), moment)
            self._set_manager(replace(self._manager, state=ManagerState.STOPPING))
            self._engine.note(Note(Kind.MANAGER, "Stopping", "everything is being brought down", moment))
            down = [
                TargetChange(i.instance_id, Target.DOWN)
                for i in self._engine.instances.values()
                if i.target is not Target.PASSIVE
            ]
            self._engine.apply(plan.set_targets(self._engine.instances, down))
        # Whether that is done already, `_step` finds out after this round.
        elif self._manager.state is ManagerState.STOPPED:
            self._answer_stopped(self._store.revision)

    def _finish_stopping(self) -> None:
        if any(i.run is not None and i.target is not Target.PASSIVE for i in self._engine.instances.values()):
            return
        self._set_manager(replace(self._manager, state=ManagerState.STOPPED))
        self._engine.note(Note(Kind.MANAGER, "Stopped", "everything is down; the manager sleeps", now()))
        self._answer_stopped(self._engine.publish())

    def _answer_stopped(self, revision: int) -> None:
        waiting, self._stopped = self._stopped, []
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(Accepted(revision))

    # --- the config

    def _reject(self, config: Config) -> NoReturn:
        self._note_config(config, now())
        self._engine.publish()
        raise ConfigError(config.file, config.problems)

    def _take_config(self, config: Config, moment: Instant) -> None:
        self._note_config(config, moment)
        if config.spec is None:
            return
        if config.host != self._manager.host:
            self._set_manager(replace(self._manager, host=config.host))
        self._adopt(config.spec, moment)
        changes = plan.apply_config(self._engine.instances, config.spec, moment)
        self._engine.apply(changes.changed, changes.notes)

    def _note_config(self, config: Config, moment: Instant) -> None:
        status = ParseStatus(config.spec is not None, moment, config.problems)
        self._set_manager(replace(self._manager, parse_status={**self._manager.parse_status, SCF: status}))
        if status.success:
            self._engine.note(Note(Kind.CONFIG, "ConfigRead", f"read {config.file}", moment))
        else:
            message = f"cannot use {config.file}; the last good config stays in force"
            self._engine.note(Note(Kind.CONFIG, "ConfigRejected", message, moment, severity=Severity.ERROR))
        for problem in config.problems:
            self._engine.note(
                Note(Kind.CONFIG, "ConfigProblem", str(problem), moment, severity=problem.severity)
            )

    def _adopt(self, host: HostSpec, moment: Instant) -> None:
        """Take back, once, what an earlier daemon left running. Not before a config says what is known: what
        it does not list would be retired."""
        if self._adopted:
            return
        self._adopted = True
        specs = {spec.instance_id: spec for spec in host.instances}
        found: dict[str, Instance] = {}
        for adopted in self._engine.driver.adopt():
            instance_id = adopted.run.instance_id
            spec = specs.get(instance_id)
            run = Run(
                adopted.run.number, Phase.READY, adopted.process, adopted.pid, adopted.started, adopted=True
            )
            if spec is None:
                unknown = InstanceSpec(instance_id, "unknown", process=adopted.process)
                management, target = Management.RETIRED, Target.DOWN
            else:
                unknown, management, target = spec, spec.management, spec.initial_target
            found[instance_id] = Instance(
                unknown, management, target, run=run, state=State.UP, runs=run.number,
                reason="Running", message="taken back from an earlier daemon",
            )  # fmt: skip
            message = f"pid {adopted.pid} was started by an earlier daemon and is taken back"
            self._engine.note(Note(Kind.DAEMON, "Adopted", message, moment, instance_id))
        self._engine.apply(found)

    def _set_targets(self, changes: Sequence[TargetChange], moment: Instant) -> dict[str, int]:
        if not changes:
            return {}
        changed = plan.set_targets(self._engine.instances, changes)
        asked = ", ".join(f"{change.who} {change.target.value}" for change in changes)
        self._engine.apply(changed, [Note(Kind.REQUEST, "Update", f"targets: {asked}", moment)])
        return {instance_id: instance.generation for instance_id, instance in changed.items()}

    def _set_manager(self, manager: Manager) -> None:
        self._manager = manager
        self._engine.set_manager(manager)


def _raise_if(bad: list[plan.BadEntry]) -> None:
    if bad:
        raise InvalidRequestError(bad)


def _copy(done: Future[T], future: Future[T]) -> None:
    error = done.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
