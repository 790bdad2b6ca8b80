"""Readings of the site config and the compose files, each shared by all requests that wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from hostmanager.values import dataclass, replace

from hostmanager_server.core.announcements import SiteConfig
from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.config_changes import NO_CHANGES, ConfigChanges
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.supervisor.errors import Accepted
from hostmanager_server.supervisor.request_handler import RequestHandler

_REST = 3.0  # times as long as a reading took
_LONGEST_REST = 1.0  # s


@dataclass(slots=True)
class Reading:
    """The content of the files at one moment.

    The first request that uses the reading fills in the other fields, on the supervisor thread, for all
    requests that share the reading.
    """

    config: SiteConfig
    catalog: Catalog | None
    ids: set[str] | None = None  # of the instances in it
    changes: ConfigChanges | None = None  # that the config made, or, before it is in force, would make
    taken: bool = False  # the config is in force
    rejected: bool = False  # the event log has the errors
    kept: bool = False  # the loader thread has written a copy


class Readings:
    """The readings for requests: one at a time, and the next for all requests that arrive meanwhile.

    A request gets a reading that begins after its arrival, which therefore holds all that its client wrote
    before. Any thread may call any method.
    """

    def __init__(self, read: Callable[[], Reading], loader: Executor) -> None:
        """Read with `read`, which runs on the loader, one call at a time."""
        self._read = read
        self._loader = loader
        self._lock = threading.Lock()
        self._rest_until = 0.0
        self._waiting: dict[Future[Reading], None] = {}  # in order

    def next(self) -> Future[Reading]:
        """Request the next reading; the future is done on the loader thread, and may be cancelled."""
        future: Future[Reading] = Future()
        with self._lock:
            first = not self._waiting
            self._waiting[future] = None
        future.add_done_callback(self._left)
        if first:
            self._loader.submit(self._load)
        return future

    def _left(self, future: Future[Reading]) -> None:
        with self._lock:
            self._waiting.pop(future, None)

    def _load(self) -> None:
        # Repeated requests of one client leave most of the interpreter time to other threads.
        time.sleep(max(0.0, min(self._rest_until - time.monotonic(), _LONGEST_REST)))
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        asked = [future for future in waiting if future.set_running_or_notify_cancel()]
        if not asked:
            return  # all callers cancelled before the reading began
        began = time.monotonic()
        try:
            reading = self._read()
        except BaseException as error:  # the requests fail with it
            for future in asked:
                future.set_exception(error)
        else:
            for future in asked:
                future.set_result(reading)
        finally:
            ended = time.monotonic()
            self._rest_until = ended + _REST * (ended - began)


def update_from(
    manager: RequestHandler,
    reading: Reading,
    changes: Sequence[TargetChange],
    *,
    validate_only: bool,
    origin: Origin | None = None,
) -> Accepted:
    """Apply a reading, then the changes, on the supervisor thread. Raises RequestError.

    The first of the requests that share the reading does the work that is the same for all.
    """
    config, catalog = reading.config, reading.catalog
    if reading.taken:
        made = NO_CHANGES if validate_only else reading.changes or NO_CHANGES
        accepted = manager.update(None, changes, validate_only=validate_only, origin=origin)
        return replace(accepted, warnings=config.problems, changes=made)
    if not config.ok:
        logged, reading.rejected = reading.rejected, reading.rejected or not validate_only
        return manager.update(
            config, changes, validate_only=validate_only or logged, catalog=catalog, origin=origin
        )
    if reading.ids is None and config.spec is not None:
        reading.ids = manager.ids_of(config.spec, catalog)
    accepted = manager.update(
        config, changes, validate_only=validate_only, catalog=catalog, ids=reading.ids, origin=origin
    )
    reading.taken = not validate_only
    if reading.taken:
        reading.changes = accepted.changes
    elif reading.changes is None and config.spec is not None:
        reading.changes = manager.preview(config.spec, catalog)
    return replace(accepted, changes=reading.changes or NO_CHANGES)
