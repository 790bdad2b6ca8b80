"""The supervisor as other threads see it: requests in, futures out."""

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
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import Management
from hostmanager_server.drivers.contract import Driver, Poller, PostEvent, ServiceDriver, ServiceListener
from hostmanager_server.drivers.router import ByWorkload
from hostmanager_server.linux.thread_names import name_this_thread
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.config_readings import Reading, Readings, update_from
from hostmanager_server.supervisor.errors import Accepted, answer
from hostmanager_server.supervisor.loop import Loop, now
from hostmanager_server.supervisor.manager import RequestHandler
from hostmanager_server.supervisor.persistence import JournalWriter
from hostmanager_server.supervisor.reconciler import Reconciler

log = logging.getLogger(__name__)

T = TypeVar("T")

CallSoon = Callable[[Callable[[], None]], None]
MakeDriver = Callable[[Poller, PostEvent, CallSoon], Driver]
MakeServices = Callable[[Poller, PostEvent, CallSoon, ServiceListener], ServiceDriver]


class Supervisor:
    """Runs the engine on a thread of its own. Every method may be called from any thread and returns at once;
    a future fails with a RequestError when the request is rejected.

    `load_config` is called on a thread of its own, once for all reloads that wait for it, and so is
    `keep_config` with each config that was taken. `on_failure` is called on the supervisor's thread should
    that end by a bug; the daemon is of no use from then on. An answer to a request comes when the journal
    has all that was asked for on disk. `left` is what an earlier daemon left behind.
    """

    def __init__(
        self,
        store: Store,
        load_config: Callable[[], SiteConfig],
        make_driver: MakeDriver,
        journal: JournalWriter,
        on_failure: Callable[[], None],
        left: Recovered = Recovered(),  # noqa: B008 - it is frozen
        make_services: MakeServices | None = None,
        keep_config: Callable[[SiteConfig], None] = lambda _: None,
    ) -> None:
        self._keep_config = keep_config
        self._on_failure = on_failure
        self._load_config = load_config
        self._loop = Loop()
        self._engine = Reconciler(store, now)
        self._services: ServiceDriver | None = None
        self._ended = False  # nothing is to be decided any more
        self._noting: list[Future[None]] = []  # who waits for a entry to be published
        driver = make_driver(self._loop, self._engine.post, self._loop.call_soon)
        if make_services is not None:
            listener = _Listener(self)
            self._services = make_services(self._loop, self._engine.post, self._loop.call_soon, listener)
            driver = ByWorkload(driver, self._services)
        self._engine.driver = driver
        self._loader = ThreadPoolExecutor(1, "config-loader", name_this_thread, ("config-loader",))
        self._readings = Readings(self._read, self._loader)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        manage = self._services.manage if self._services is not None else None
        self._manager = RequestHandler(self._engine, store, journal, now, left, manage)
        journal.listen(self._take_journal_problem)

    def start(self) -> None:
        """Start the thread; the manager is stopped until `start_manager`."""
        self._thread.start()

    def close(self, *, disown: bool = False) -> None:
        """End the thread and release everything. With `disown` what runs is left to the next daemon; without
        it nothing may run any more. Waits for the thread."""

        def last() -> None:
            self._step()  # what this round has brought is seen to, or is known to the next daemon
            self._ended = True
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
        if not reload_config:
            return self._call(lambda: self._manager.start(None, changes, tolerant))
        return self._with_config(
            lambda reading: self._manager.start(reading.config, changes, tolerant, reading.catalog)
        )

    def stop_manager(self, disown: Collection[Management] = ()) -> Future[Accepted]:
        """Bring everything down but what is managed in one of the ways in `disown`, which is left to the next
        daemon; the future is done when everything is down."""
        future: Future[Accepted] = Future()
        self._loop.call_soon(lambda: self._manager.stop(future, disown))
        return future

    def update(
        self,
        changes: Sequence[TargetChange] = (),
        *,
        reload_config: bool = False,
        validate_only: bool = False,
    ) -> Future[Accepted]:
        """Change targets, in order, after reading the config anew if asked to. All or nothing."""
        if not reload_config:
            return self._call(
                lambda: self._manager.update(None, changes, validate_only), changes_state=not validate_only
            )
        return self._with_config(
            lambda reading: update_from(self._manager, reading, changes, validate_only),
            taken=not validate_only,
        )

    def restart(self, instance_ids: Sequence[str] | None) -> Future[Accepted]:
        """Take instances down and up again; None: all that are operable and whose target is up."""
        return self._call(lambda: self._manager.restart(instance_ids))

    def keep_targets(self) -> None:
        """What is asked for and happens from now on is not to outlive the daemon, as it ends."""
        self._loop.call_soon(self._manager.keep_targets)

    def log(self, entry: LogEntry) -> Future[None]:
        """Put something into the event log; the future is done when it can be read there."""
        future: Future[None] = Future()

        def put() -> None:
            self._engine.log(entry)
            self._noting.append(future)

        self._loop.call_soon(put)
        return future

    # --- getting onto the thread

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the supervisor's thread, in its turn."""
        self._loop.call_soon(callback)

    def _call(self, request: Callable[[], T], *, changes_state: bool = True) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # whoever asked has left before it was begun
            try:
                result = request()
                stored = self._manager.save() if changes_state else None
            except BaseException as error:  # whoever asked is told, whatever it is
                future.set_exception(error)
            else:
                answer(future, result, stored)

        self._loop.call_soon(run)
        return future

    def _with_config(self, request: Callable[[Reading], Accepted], *, taken: bool = True) -> Future[Accepted]:
        future: Future[Accepted] = Future()

        def read(done: Future[Reading]) -> None:
            if done.cancelled() or not future.set_running_or_notify_cancel():
                return  # whoever asked has left before it was begun
            error = done.exception()
            if error is not None:
                future.set_exception(error)
                return
            reading = done.result()

            def answered(outcome: Future[Accepted]) -> None:
                if taken and reading.config.ok and outcome.exception() is None:
                    with suppress(RuntimeError):  # the daemon is ending
                        self._loader.submit(self._keep, reading)
                _copy(outcome, future)

            self._call(lambda: request(reading), changes_state=taken).add_done_callback(answered)

        reading = self._readings.next()
        future.add_done_callback(lambda left: left.cancelled() and reading.cancel())
        reading.add_done_callback(read)
        return future

    def _read(self) -> Reading:
        config = self._load_config()
        return Reading(config, self._services.load() if self._services is not None else None)

    def _keep(self, reading: Reading) -> None:
        """On the loader's thread: keep a copy, once."""
        if not reading.kept:
            reading.kept = True
            self._keep_config(reading.config)

    def _take_journal_problem(self, problem: str) -> None:
        self._loop.call_soon(lambda: self._manager.take_journal_problem(problem))

    def take_survey(self, survey: Survey) -> None:
        """See ServiceListener.surveyed."""
        self._manager.take_survey(survey)

    def reload_catalog(self) -> None:
        """Read the compose files anew, as one of them was changed."""
        services = self._services
        assert services is not None

        def load() -> None:
            try:
                catalog = services.load()
            except Exception:  # a bug: the next change may do better, and a reload says what is wrong
                log.exception("reading the compose files failed by a bug of the daemon")
            else:
                self._loop.call_soon(lambda: self._take_catalog(catalog))

        with suppress(RuntimeError):  # the daemon is ending
            self._loader.submit(load)

    def _take_catalog(self, catalog: Catalog) -> None:
        self._manager.take_catalog(catalog)
        self._manager.save()

    def _run(self) -> None:
        name_this_thread("supervisor")
        try:
            self._loop.run(self._step)
        except BaseException:
            log.critical("the supervisor ended by a bug: nothing is supervised any more", exc_info=True)
            self._on_failure()

    def _step(self) -> float | None:
        if self._ended:
            return None
        more = self._engine.step()
        noted, self._noting = self._noting, []
        for future in noted:
            if future.set_running_or_notify_cancel():
                future.set_result(None)
        self._manager.save_decisions()
        if not more:
            self._manager.finish_stopping()
        return 0.0 if more else self._engine.next_deadline()


class _Listener:
    """Passes on what a driver of services has to say."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def surveyed(self, survey: Survey) -> None:
        self._supervisor.take_survey(survey)

    def files_changed(self) -> None:
        self._supervisor.reload_catalog()


def _copy(done: Future[T], future: Future[T]) -> None:
    error = done.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
