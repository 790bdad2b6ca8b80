"""The supervisor thread, as other threads use it: requests in, futures out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from hostmanager_server.core.announcements import SiteConfig
from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import Management
from hostmanager_server.drivers.contract import (
    CallSoon,
    Driver,
    Poller,
    PostEvent,
    ServiceDriver,
    ServiceListener,
)
from hostmanager_server.drivers.router import DriverRouter
from hostmanager_server.linux.thread_names import name_this_thread
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.answers import answer_when_stored, copy_answer
from hostmanager_server.supervisor.config_readings import Reading, Readings, update_from
from hostmanager_server.supervisor.errors import Accepted, JobAccepted
from hostmanager_server.supervisor.loop import Loop, now
from hostmanager_server.supervisor.persistence import JournalWriter
from hostmanager_server.supervisor.reconciler import Reconciler
from hostmanager_server.supervisor.request_handler import RequestHandler
from hostmanager_server.supervisor.signal_request import RequestedSignal, send_signal
from hostmanager_server.supervisor.status import StoredThing

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

MakeDriver = Callable[[Poller, PostEvent, CallSoon], Driver]
MakeServiceDriver = Callable[[Poller, PostEvent, CallSoon, ServiceListener], ServiceDriver]


class Supervisor:
    """The thread that owns the state of all instances.

    Any thread may call any method. A method that returns a future returns at once; the future is done when
    the journal has stored the request, and fails with a RequestError if the request is rejected.

    `load_config` runs once for all reloads that wait for it, and `keep_config` with each accepted config;
    both run on one loader thread, one call at a time. `on_failure` runs on the supervisor thread if a bug
    ends the thread, after which the daemon supervises nothing. `recovered` is the content of the earlier
    daemon's journal. `let_readers_run` runs on the supervisor thread between the publication of an end and
    the launch of the replacement, and may block for some ms. `round_ended` runs there after each round of
    work.
    """

    def __init__(
        self,
        store: Store,
        load_config: Callable[[], SiteConfig],
        make_driver: MakeDriver,
        journal: JournalWriter,
        on_failure: Callable[[], None],
        recovered: Recovered = Recovered(),  # noqa: B008 - frozen
        make_service_driver: MakeServiceDriver | None = None,
        keep_config: Callable[[SiteConfig], None] = lambda _: None,
        let_readers_run: Callable[[], None] = lambda: None,
        round_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._round_ended = round_ended
        self._keep_config = keep_config
        self._on_failure = on_failure
        self._load_config = load_config
        self._loop = Loop()
        self._reconciler = Reconciler(store, now)
        self._reconciler.let_readers_run = let_readers_run
        self._services: ServiceDriver | None = None
        self._ended = False  # no further decisions
        self._log_requests: list[Future[None]] = []  # done with the next publication
        driver = make_driver(self._loop, self._reconciler.post, self._loop.call_soon)
        if make_service_driver is not None:
            self._services = make_service_driver(
                self._loop, self._reconciler.post, self._loop.call_soon, _Listener(self)
            )
            driver = DriverRouter(driver, self._services)
        self._reconciler.driver = driver
        self._loader = ThreadPoolExecutor(1, "config-loader", name_this_thread, ("config-loader",))
        self._readings = Readings(self._read, self._loader)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        manage = self._services.manage if self._services is not None else None
        self._manager = RequestHandler(self._reconciler, store, journal, now, recovered, manage)
        journal.listen(self._take_journal_problem)

    def start(self) -> None:
        """Start the thread; the manager stays stopped until `start_manager`."""
        self._thread.start()

    def close(self, *, disown: bool = False) -> None:
        """End the thread, wait for the end, and release all resources.

        With `disown`, running instances go on for the next daemon. Otherwise no instance may be running.
        """

        def last() -> None:
            self._step()  # events of this round are handled now, or the next daemon recovers their runs
            self._ended = True
            if disown:
                self._reconciler.driver.disown()
            self._reconciler.driver.close()

        if self._thread.is_alive():
            self._loop.call_soon(last)
            self._loop.stop()
            self._thread.join()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    # --- requests

    def start_manager(
        self,
        changes: Sequence[TargetChange] = (),
        *,
        reload_config: bool = True,
        tolerant: bool = False,
        origin: Origin | None = None,
    ) -> Future[Accepted]:
        """Start the manager, and change targets; `origin` is None for the daemon's own requests.

        If `tolerant`, a config with errors does not fail the request: the manager runs with the last good
        config, or without instances until a reload reads a good config.
        """
        if not reload_config:
            return self._call(lambda: self._manager.start(None, changes, tolerant=tolerant, origin=origin))
        return self._with_config(
            lambda reading: self._manager.start(
                reading.config, changes, tolerant=tolerant, catalog=reading.catalog, origin=origin
            )
        )

    def stop_manager(
        self, disown: Collection[Management] = (), origin: Origin | None = None
    ) -> Future[Accepted]:
        """Stop all instances; the future is done when all are down.

        Instances with a management in `disown` run on for the next daemon.
        """
        future: Future[Accepted] = Future()
        self._loop.call_soon(lambda: self._manager.stop(future, disown, origin))
        return future

    def update(
        self,
        changes: Sequence[TargetChange] = (),
        *,
        reload_config: bool = False,
        validate_only: bool = False,
        origin: Origin | None = None,
    ) -> Future[Accepted]:
        """Change targets in order, after a reload of the config if `reload_config`.

        The request changes all targets, or nothing.
        """
        if not reload_config:
            return self._call(
                lambda: self._manager.update(None, changes, validate_only=validate_only, origin=origin),
                store=not validate_only,
            )
        return self._with_config(
            lambda reading: update_from(
                self._manager, reading, changes, validate_only=validate_only, origin=origin
            ),
            store=not validate_only,
        )

    def restart(
        self,
        instance_ids: Sequence[str] | None,
        origin: Origin | None = None,
        selectors: Sequence[str] = (),
        *,
        failing: bool = False,
    ) -> Future[Accepted]:
        """Stop and start instances, or, for None, all that can be restarted; see RequestHandler."""
        return self._call(
            lambda: self._manager.of_instances.restart(instance_ids, origin, selectors, failing=failing)
        )

    def signal(
        self, instance_id: str, signum: int, *, whole_tree: bool, origin: Origin | None = None
    ) -> Future[Accepted]:
        """Send a signal to the main process of an instance, or to its whole tree."""
        future: Future[Accepted] = Future()
        request = RequestedSignal(instance_id, signum, origin, whole_tree=whole_tree)
        self._loop.call_soon(lambda: send_signal(self._reconciler, future, request, now()))
        return future

    def run_once(
        self, name: str, arguments: Sequence[str], origin: Origin | None = None
    ) -> Future[JobAccepted]:
        """Run a one-shot, given by its id or its class, once and now."""
        return self._call(lambda: self._manager.of_instances.run_once(name, arguments, origin))

    def hold(
        self, instance_ids: Sequence[str], seconds: float | None, reason: str, origin: Origin | None = None
    ) -> Future[Accepted]:
        """Hold instances for some s; None: until their release."""
        return self._call(lambda: self._manager.of_instances.hold(instance_ids, seconds, reason, origin))

    def release(self, instance_ids: Sequence[str] | None, origin: Origin | None = None) -> Future[Accepted]:
        """Release instances from their holds, or, for None, all."""
        return self._call(lambda: self._manager.of_instances.release(instance_ids, origin))

    def keep_targets(self) -> None:
        """Store no later change: the next daemon recovers the present targets."""
        self._loop.call_soon(self._manager.keep_targets)

    def log(self, entry: LogEntry) -> Future[None]:
        """Add an entry to the event log; the future is done after the publication."""
        future: Future[None] = Future()

        def put() -> None:
            self._reconciler.log(entry)
            self._log_requests.append(future)

        self._loop.call_soon(put)
        return future

    # --- access to the thread

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the supervisor thread, after earlier callbacks."""
        self._loop.call_soon(callback)

    def _call(self, request: Callable[[], ResultT], *, store: bool = True) -> Future[ResultT]:
        """Run a request on the supervisor thread.

        If `store`, save the state, and let the future wait for the journal.
        """
        future: Future[ResultT] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # the caller cancelled the request before its turn
            try:
                result = request()
                stored = self._manager.save() if store else None
            except BaseException as error:  # the caller gets every error
                future.set_exception(error)
            else:
                answer_when_stored(future, result, stored)

        self._loop.call_soon(run)
        return future

    def _with_config(self, request: Callable[[Reading], Accepted], *, store: bool = True) -> Future[Accepted]:
        """Run a request on the supervisor thread, after a reading of the files on the loader thread."""
        future: Future[Accepted] = Future()

        def read(done: Future[Reading]) -> None:
            if done.cancelled() or not future.set_running_or_notify_cancel():
                return  # the caller cancelled the request before its turn
            error = done.exception()
            if error is not None:
                future.set_exception(error)
                return
            reading = done.result()

            def answered(outcome: Future[Accepted]) -> None:
                if store and reading.config.ok and outcome.exception() is None:
                    with suppress(RuntimeError):  # the daemon is ending
                        self._loader.submit(self._keep, reading)
                copy_answer(outcome, future)

            self._call(lambda: request(reading), store=store).add_done_callback(answered)

        reading = self._readings.next()
        future.add_done_callback(lambda left: left.cancelled() and reading.cancel())
        reading.add_done_callback(read)
        return future

    def _read(self) -> Reading:
        config = self._load_config()
        return Reading(config, self._services.load() if self._services is not None else None)

    def _keep(self, reading: Reading) -> None:
        """Write a copy of an accepted config, once; runs on the loader thread."""
        if not reading.kept:
            reading.kept = True
            self._keep_config(reading.config)

    def take_output_problem(self, problem: str) -> None:
        """Publish that a log directory cannot be used, or, with an empty `problem`, that all can."""
        self._loop.call_soon(lambda: self._manager.take_output_problem(problem))

    def _take_journal_problem(self, problem: str) -> None:
        self._loop.call_soon(lambda: self._manager.take_problem(StoredThing.JOURNAL, problem))

    def take_events_problem(self, problem: str) -> None:
        """Publish that the disk refuses the events, or, with an empty `problem`, the recovery."""
        self._loop.call_soon(lambda: self._manager.take_problem(StoredThing.EVENTS, problem))

    def take_survey(self, survey: Survey) -> None:
        """See ServiceListener.surveyed."""
        self._manager.take_survey(survey)

    def reload_catalog(self) -> None:
        """Read the compose files again on the loader thread, after a change of a file."""
        services = self._services
        assert services is not None

        def load() -> None:
            try:
                catalog = services.load()
            except Exception:  # a bug: the next change may succeed, and a reload reports the error
                log.exception("cannot read the compose files: a bug of the daemon")
            else:
                self._loop.call_soon(lambda: self._take_catalog(catalog))

        with suppress(RuntimeError):  # the daemon is ending
            self._loader.submit(load)

    def _take_catalog(self, catalog: Catalog) -> None:
        self._manager.take_catalog(catalog)
        self._manager.save()

    # --- the thread

    def _run(self) -> None:
        name_this_thread("supervisor")
        try:
            self._loop.run(self._step)
        except BaseException:
            log.critical("a bug ended the supervisor: the daemon supervises nothing now", exc_info=True)
            self._on_failure()

    def _step(self) -> float | None:
        if self._ended:
            return None
        more = self._reconciler.step()
        published, self._log_requests = self._log_requests, []
        for future in published:
            if future.set_running_or_notify_cancel():
                future.set_result(None)
        self._manager.save_decisions()
        self._round_ended()
        if not more:
            self._manager.finish_stopping()
        return 0.0 if more else self._reconciler.next_deadline()


class _Listener:
    """The listener of the service driver."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def surveyed(self, survey: Survey) -> None:
        """See ServiceListener.surveyed."""
        self._supervisor.take_survey(survey)

    def files_changed(self) -> None:
        """See ServiceListener.files_changed."""
        self._supervisor.reload_catalog()
