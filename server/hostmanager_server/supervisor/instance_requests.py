"""Requests about single instances: restart, run, hold and release.

All code here runs on the supervisor thread, or in a test that plays this thread. A method that rejects a
request raises a RequestError, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hostmanager_server.core import holds, jobs, plan
from hostmanager_server.core.actions import listed
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Hold
from hostmanager_server.core.origin import Origin, OriginKind
from hostmanager_server.core.selection import select_restarts
from hostmanager_server.supervisor.errors import (
    Accepted,
    InvalidRequestError,
    JobAccepted,
    accepted,
    raise_if,
)
from hostmanager_server.supervisor.reconciler import Reconciler


class InstanceRequests:
    """Carries out requests on the instances of a reconciler.

    `require_running` raises WrongStateError, with the name of the request, unless the manager is running.
    """

    def __init__(
        self, reconciler: Reconciler, require_running: Callable[[str], None], now: Callable[[], Instant]
    ) -> None:
        self._reconciler = reconciler
        self._require_running = require_running
        self._now = now

    def restart(
        self,
        instance_ids: Sequence[str] | None,
        origin: Origin | None = None,
        selectors: Sequence[str] = (),
        *,
        failing: bool = False,
    ) -> Accepted:
        """Stop and start these instances, or, for None, all that can be restarted.

        `selectors` name further instances. With `failing`, only failing instances restart. Raises
        WrongStateError unless the manager is running, and InvalidRequestError.
        """
        self._require_running("restart")
        instances = self._reconciler.instances
        if instance_ids is None:
            chosen = plan.restartable(instances)
        else:
            chosen, bad = select_restarts(instances, instance_ids, selectors, failing=failing)
            raise_if(bad)
        now = self._now()
        origin = origin or Origin(OriginKind.DAEMON, now)
        changed = plan.restart(instances, chosen, origin)
        message = f"restart of {listed(chosen) or 'nothing'}"
        self._reconciler.apply(changed, [LogEntry(EntryKind.REQUEST, "Restart", message, now, origin=origin)])
        return accepted(self._reconciler.publish(), {name: changed[name] for name in chosen})

    def run_once(self, name: str, arguments: Sequence[str], origin: Origin | None = None) -> JobAccepted:
        """Run the one-shot with this id, or the only one of this class, once and now.

        Raises WrongStateError unless the manager is running, and InvalidRequestError.
        """
        self._require_running("run")
        found = jobs.find(self._reconciler.instances, name)
        if isinstance(found, plan.BadEntry):
            raise InvalidRequestError([found])
        instance = self._reconciler.instances[found]
        if why := jobs.why_not(instance, arguments):
            raise InvalidRequestError([plan.BadEntry(0, why)])
        message = f"run of {found}" + (f" with {len(arguments)} arguments" if arguments else "")
        entry = LogEntry(EntryKind.REQUEST, "Run", message, self._now(), found, origin=origin)
        self._reconciler.apply({found: jobs.run_once(instance, arguments)}, [entry])
        return JobAccepted(found, instance.standing.runs + 1, self._reconciler.publish())

    def hold(
        self, instance_ids: Sequence[str], seconds: float | None, reason: str, origin: Origin | None = None
    ) -> Accepted:
        """Hold these instances for some s, or, for None, until their release.

        Raises WrongStateError unless the manager is running, and InvalidRequestError.
        """
        self._require_running("hold")
        instances = self._reconciler.instances
        raise_if(plan.check_known(instances, instance_ids))
        now = self._now()
        wanted = Hold(now, None if seconds is None else now.plus(seconds), reason)
        self._reconciler.apply(*holds.hold(instances, dict.fromkeys(instance_ids), wanted, origin))
        return Accepted(self._reconciler.publish())

    def release(self, instance_ids: Sequence[str] | None, origin: Origin | None = None) -> Accepted:
        """Release these instances, or all for None; those that are not held stay as they are.

        Raises WrongStateError unless the manager is running, and InvalidRequestError.
        """
        self._require_running("release")
        instances = self._reconciler.instances
        ids = list(instances) if instance_ids is None else list(dict.fromkeys(instance_ids))
        raise_if(plan.check_known(instances, instance_ids or ()))
        self._reconciler.apply(*holds.release(instances, ids, self._now(), origin))
        return Accepted(self._reconciler.publish())
