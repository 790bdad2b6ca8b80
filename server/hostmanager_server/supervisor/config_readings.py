"""Readings of the site config and the compose files, each shared by all requests that wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

from hostmanager_server.core.announcements import SiteConfig
from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.supervisor.errors import Accepted
from hostmanager_server.supervisor.manager import RequestHandler

_REST = 3.0  # times as long as a reading took
_LONGEST_REST = 1.0  # s


@dataclass(slots=True)
class Reading:
    """What the files said. The rest is filled in on the supervisor's thread, by the first request that is
    carried out, for those that share it."""

    config: SiteConfig
    catalog: Catalog | None
    ids: set[str] | None = None  # of the instances that it makes
    taken: bool = False  # it is in force
    rejected: bool = False  # the event log says what is wrong with it
    kept: bool = False  # a copy of it was written; the loader's thread alone looks at this


class Readings:
    """Reads the files for requests: one reading at a time, and one more for all that came meanwhile.

    A request gets a reading that began after it came, so what its client wrote before is in it. Any thread
    may call.
    """

    def __init__(self, read: Callable[[], Reading], loader: Executor) -> None:
        """`read` runs on the loader, which does one thing at a time."""
        self._read = read
        self._loader = loader
        self._lock = threading.Lock()
        self._rest_until = 0.0
        self._waiting: dict[Future[Reading], None] = {}  # in order

    def next(self) -> Future[Reading]:
        """The next reading; the future is done on the loader's thread. May be cancelled."""
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
        # Clients that ask again and again leave the interpreter to others most of the time.
        time.sleep(max(0.0, min(self._rest_until - time.monotonic(), _LONGEST_REST)))
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        asked = [future for future in waiting if future.set_running_or_notify_cancel()]
        if not asked:
            return  # all have left before it was begun
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
    manager: RequestHandler, reading: Reading, changes: Sequence[TargetChange], validate_only: bool
) -> Accepted:
    """Have the manager take a reading, then the changes. What is the same for all requests that share it is
    done for the first of them. On the supervisor's thread. Raises RequestError."""
    config, catalog = reading.config, reading.catalog
    if reading.taken:
        return replace(manager.update(None, changes, validate_only), warnings=config.problems)
    if not config.ok:
        told, reading.rejected = reading.rejected, reading.rejected or not validate_only
        return manager.update(config, changes, validate_only or told, catalog)
    if reading.ids is None and config.spec is not None:
        reading.ids = manager.ids_of(config.spec, catalog)
    accepted = manager.update(config, changes, validate_only, catalog, reading.ids)
    reading.taken = not validate_only
    return accepted
