"""Checks of what watchers were told: true, whole, and the same as what there is (I4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee.daemons import DaemonLife
from tests.referee.event_watcher import EventWatcher
from tests.referee.ground import Ground
from tests.referee.lives import Life
from tests.referee.looking import NOTHING_RUNS, PATIENCE, Evidence, eventually, list_instances, state_of
from tests.referee.model import Model
from tests.referee.status_watcher import Listed, Said, StatusWatcher
from tests.referee.verdict import Invariant, Violation

_STARTED_WITHIN = 5.0  # s, by which what a daemon takes for the start of a process may be off


class Told:
    """I4, and of I3 that what happens is told."""

    def __init__(self, ground: Ground, model: Model, daemons: list[DaemonLife], evidence: Evidence) -> None:
        self._ground = ground
        self._model = model
        self._daemons = daemons
        self._evidence = evidence
        self._by_pid: dict[int, DaemonLife] = {}

    def truth(self, watchers: Iterable[StatusWatcher]) -> None:
        """Nothing false was said of what nobody had touched."""
        self._by_pid.update((daemon.pid, daemon) for daemon in self._daemons)
        for watcher in watchers:
            watcher.must_be_content()
            while watcher.said:
                said = watcher.said.popleft()
                daemon = self._by_pid.get(said.daemon)
                if daemon is None:
                    text = f"{watcher.name} heard of a daemon with pid {said.daemon}, which was none"
                    raise Violation(Invariant.I4, text, watcher.evidence())
                match said:
                    case Listed():
                        self._nobody_forgotten(watcher, said)
                    case Said():
                        self._not_false(watcher, said, daemon)

    def _nobody_forgotten(self, watcher: StatusWatcher, listed: Listed) -> None:
        for agent in self._ground.agents:
            if not agent.guest and agent.instance not in listed.instances:
                text = f"{watcher.name} was sent a snapshot without {agent.instance}"
                raise Violation(Invariant.I4, text, [*watcher.evidence(), *self._evidence.of(agent.instance)])

    def _not_false(self, watcher: StatusWatcher, said: Said, daemon: DaemonLife) -> None:
        text = ""
        if said.state == pb.NEXT_ACTION_UP and said.pid:
            lives = [  # of its pid, which others may have had long before
                life
                for life in self._ground.journals.by_pid(said.pid)
                if life.instance == said.instance and life.born > said.started - _STARTED_WITHIN
            ]
            # None is known when it was ended before it came to write anything.
            if lives and all(life.dead_before(daemon.started) for life in lives):
                text = f"is up with pid {said.pid}, which was dead before that daemon started"
        elif said.state in NOTHING_RUNS:
            for life in self._ground.journals.standing(said.instance, daemon.started, said.heard):
                if not self._model.may_have_ended(said.instance, life.name.started, said.heard):
                    text = f"is down, while {life} lived on"
        if text:
            text = f"{watcher.name} was told that {said.instance} {text}"
            raise Violation(Invariant.I4, text, [*watcher.evidence(), *self._evidence.of(said.instance)])

    def agreement(
        self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub, watchers: Sequence[StatusWatcher]
    ) -> None:
        """What a watcher has put together is what there is."""
        differences = ["nobody has looked yet"]

        def agreed() -> bool:
            listed = list_instances(daemon, stub)
            differences[:] = [
                difference for watcher in watchers if (difference := _difference(watcher, daemon, listed))
            ]
            for watcher in watchers:
                watcher.must_be_content()
            return not differences

        if not eventually(agreed, PATIENCE):
            evidence = [line for watcher in watchers for line in watcher.evidence()]
            raise Violation(Invariant.I4, f"after {PATIENCE:g} s {differences[0]}", evidence)

    def exits(self, daemon: DaemonLife, watchers: Sequence[EventWatcher], killed: Sequence[Life]) -> None:
        """Every agent that was killed, and was to live, is in the event log with its exit.
        Raises DiedError, too."""
        to_live = [
            life for life in killed
            if life.leads and not self._model.may_have_ended(
                life.instance, life.name.started, (life.killed or 0.0) + PATIENCE
            )
        ]  # fmt: skip
        missing: list[Life] = []

        def told() -> bool:
            for watcher in watchers:
                watcher.must_be_content()
            daemon.must_live()
            heard = {(e.instance, e.pid) for watcher in watchers for e in list(watcher.exits)}
            missing[:] = [k for k in to_live if (k.instance, k.name.pid) not in heard]
            return not missing

        if not eventually(told, PATIENCE):
            more = [line for watcher in watchers for line in watcher.evidence()]
            text = f"no event tells of the end of {missing[0]}"
            raise Violation(Invariant.I3, text, self._evidence.of(missing[0].instance, more))


def _difference(watcher: StatusWatcher, daemon: DaemonLife, listed: dict[str, pb.ManagedInstance]) -> str:
    """Where a watcher's view differs from what is listed; empty: nowhere."""
    if watcher.daemon_pid != daemon.pid:
        return f"{watcher.name} still sees daemon {watcher.daemon_pid}"
    view = dict(watcher.view)
    if view.keys() != listed.keys():
        return f"{watcher.name} knows {sorted(view)}, and there are {sorted(listed)}"
    for instance, there in listed.items():
        seen = view[instance]
        if (seen.revision, seen.next_action, seen.process.pid, seen.target_state) != (
            there.revision, there.next_action, there.process.pid, there.target_state,
        ):  # fmt: skip
            return (
                f"{watcher.name} sees {instance} {state_of(seen)}, pid {seen.process.pid}, at revision "
                f"{seen.revision}; it is {state_of(there)}, pid {there.process.pid}, at {there.revision}"
            )
    return ""
