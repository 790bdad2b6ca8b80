"""Checks of watches: true, complete, and equal to the listed instances (I4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee.daemons import DaemonProcess
from tests.referee.event_watcher import EventWatcher
from tests.referee.host import Host
from tests.referee.invariants import Breach, Invariant
from tests.referee.journals import AgentProcess
from tests.referee.polling import NOTHING_RUNS, PATIENCE, Evidence, list_instances, poll, state_of
from tests.referee.status_watcher import ObservedSnapshot, ObservedState, StatusWatcher
from tests.referee.target_model import Targets

_STARTED_WITHIN = 5.0  # largest error of a published start time, in s


class WatchChecks:
    """Checks of I4, and of events for all exits (I3)."""

    def __init__(self, host: Host, model: Targets, daemons: list[DaemonProcess], evidence: Evidence) -> None:
        self._host = host
        self._model = model
        self._daemons = daemons
        self._evidence = evidence
        self._by_pid: dict[int, DaemonProcess] = {}

    def check_truth(self, watchers: Iterable[StatusWatcher]) -> None:
        """Check that no message was false about an instance without requests. Raises Breach."""
        self._by_pid.update((daemon.pid, daemon) for daemon in self._daemons)
        for watcher in watchers:
            watcher.raise_violation()
            while watcher.observations:
                observed = watcher.observations.popleft()
                daemon = self._by_pid.get(observed.daemon)
                if daemon is None:
                    text = f"{watcher.name} received pid {observed.daemon}, which was no daemon"
                    raise Breach(Invariant.I4, text, watcher.evidence())
                match observed:
                    case ObservedSnapshot():
                        self._check_complete(watcher, observed)
                    case ObservedState():
                        self._check_true(watcher, observed, daemon)

    def _check_complete(self, watcher: StatusWatcher, listed: ObservedSnapshot) -> None:
        for agent in self._host.agents:
            if not agent.guest and agent.instance not in listed.instances:
                text = f"{watcher.name} was sent a snapshot without {agent.instance}"
                raise Breach(Invariant.I4, text, [*watcher.evidence(), *self._evidence.of(agent.instance)])

    def _check_true(self, watcher: StatusWatcher, observed: ObservedState, daemon: DaemonProcess) -> None:
        text = ""
        if observed.state == pb.NEXT_ACTION_UP and observed.pid:
            lives = [  # earlier processes may have had the same pid
                process
                for process in self._host.journals.by_pid(observed.pid)
                if process.instance == observed.instance
                and process.started > observed.started - _STARTED_WITHIN
            ]
            # There is no process if the process ended before its first journal line.
            if lives and all(process.dead_before(daemon.started) for process in lives):
                text = f"is up with pid {observed.pid}, which died before that daemon started"
        elif observed.state in NOTHING_RUNS:
            for process in self._host.journals.alive_throughout(
                observed.instance, daemon.started, observed.received
            ):
                if not self._model.may_have_ended(
                    observed.instance, process.identity.started, observed.received
                ):
                    text = f"is down, while {process} ran on"
        if text:
            text = f"{watcher.name} received that {observed.instance} {text}"
            raise Breach(Invariant.I4, text, [*watcher.evidence(), *self._evidence.of(observed.instance)])

    def check_agreement(
        self, daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub, watchers: Sequence[StatusWatcher]
    ) -> None:
        """Wait for each watcher's view to equal the listed instances. Raises Breach."""
        differences = ["not checked yet"]

        def agreed() -> bool:
            listed = list_instances(daemon, stub)
            differences[:] = [
                difference for watcher in watchers if (difference := _difference(watcher, daemon, listed))
            ]
            for watcher in watchers:
                watcher.raise_violation()
            return not differences

        if not poll(agreed, PATIENCE):
            evidence = [line for watcher in watchers for line in watcher.evidence()]
            raise Breach(Invariant.I4, f"after {PATIENCE:g} s {differences[0]}", evidence)

    def check_exits(
        self, daemon: DaemonProcess, watchers: Sequence[EventWatcher], killed: Sequence[AgentProcess]
    ) -> None:
        """Wait for an exit event of every killed agent that no request may have stopped.

        Raises Breach, or DiedError.
        """
        unrequested = [
            process for process in killed
            if process.is_main and not self._model.may_have_ended(
                process.instance, process.identity.started, (process.killed or 0.0) + PATIENCE
            )
        ]  # fmt: skip
        missing: list[AgentProcess] = []

        def reported() -> bool:
            for watcher in watchers:
                watcher.raise_violation()
            daemon.require_alive()
            received = {(e.instance, e.pid) for watcher in watchers for e in list(watcher.exits)}
            missing[:] = [k for k in unrequested if (k.instance, k.identity.pid) not in received]
            return not missing

        if not poll(reported, PATIENCE):
            more = [line for watcher in watchers for line in watcher.evidence()]
            text = f"no event reports the exit of {missing[0]}"
            raise Breach(Invariant.I3, text, self._evidence.of(missing[0].instance, more))


def _difference(watcher: StatusWatcher, daemon: DaemonProcess, listed: dict[str, pb.ManagedInstance]) -> str:
    """Return the first difference between a watcher's view and the listed instances; empty for none."""
    if watcher.daemon_pid != daemon.pid:
        return f"{watcher.name} still shows daemon {watcher.daemon_pid}"
    view = dict(watcher.view)
    if view.keys() != listed.keys():
        return f"{watcher.name} shows {sorted(view)} instead of {sorted(listed)}"
    for instance, entry in listed.items():
        shown = view[instance]
        if (shown.revision, shown.next_action, shown.process.pid, shown.target_state) != (
            entry.revision, entry.next_action, entry.process.pid, entry.target_state,
        ):  # fmt: skip
            return (
                f"{watcher.name} shows {instance} as {state_of(shown)}, pid {shown.process.pid}, revision "
                f"{shown.revision}; listed as {state_of(entry)}, pid {entry.process.pid}, {entry.revision}"
            )
    return ""
