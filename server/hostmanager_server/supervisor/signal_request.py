"""The request of an operator to signal the processes of an instance."""

from __future__ import annotations

from concurrent.futures import Future

from hostmanager.values import dataclass

from hostmanager_server.core import plan
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.signals import signal_name
from hostmanager_server.supervisor.errors import Accepted, InvalidRequestError, SignalError
from hostmanager_server.supervisor.reconciler import Reconciler


@dataclass(frozen=True, slots=True)
class RequestedSignal:
    """A signal for the main process of an instance, or for its whole tree."""

    instance_id: str
    signum: int
    origin: Origin | None
    whole_tree: bool


def send_signal(
    reconciler: Reconciler, future: Future[Accepted], request: RequestedSignal, now: Instant
) -> None:
    """Send a signal on the supervisor thread; the future is done when the kernel or the engine took it.

    The future fails with InvalidRequestError for an unknown instance, and SignalError.
    """
    if not future.set_running_or_notify_cancel():
        return  # the caller cancelled the request before its turn
    instance_id, signum, whole_tree = request.instance_id, request.signum, request.whole_tree
    bad = plan.check_signal(reconciler.instances, instance_id, whole_tree=whole_tree)
    if bad is not None:
        future.set_exception(InvalidRequestError([bad]) if bad.unknown else SignalError(bad.why))
        return

    def done(why: str) -> None:
        if why:
            future.set_exception(SignalError(f"cannot signal {instance_id!r}: {why}"))
            return
        receiver = "every process of its tree" if whole_tree else "its main process"
        message = f"{signal_name(signum)} to {receiver}, as requested"
        reconciler.log(
            LogEntry(EntryKind.REQUEST, "Signal", message, now, instance_id, origin=request.origin)
        )
        future.set_result(Accepted(reconciler.publish()))

    run = reconciler.instances[instance_id].run_key()
    reconciler.signal(run, signum, whole_tree=whole_tree, done=done)
