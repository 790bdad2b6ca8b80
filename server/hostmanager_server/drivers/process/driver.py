"""The driver of native processes."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from hostmanager.values import dataclass, replace

from hostmanager_server.core.events import (
    Adopted,
    Exited,
    ExitStatus,
    Gone,
    Ready,
    RunKey,
    Started,
    StartFailed,
)
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec
from hostmanager_server.core.usage import MeasuredRun
from hostmanager_server.drivers.contract import CallSoon, Done, Output, Poller, PostEvent
from hostmanager_server.drivers.exec import command, direct, gate
from hostmanager_server.drivers.exec.command import CommandError
from hostmanager_server.drivers.exec.liveness import LastAnswers, LivenessWatch
from hostmanager_server.drivers.exec.readiness import Prober
from hostmanager_server.drivers.process.cgroup import Cgroups
from hostmanager_server.drivers.process.launcher import Launcher
from hostmanager_server.drivers.process.main_process import (
    GATE_ENDS,
    adopted_run,
    end_of_child,
    find_main_process,
)
from hostmanager_server.drivers.process.membership import agent_uids
from hostmanager_server.drivers.process.memory_guard import MemoryGuard
from hostmanager_server.drivers.process.process_table import ProcessTree, kill_members
from hostmanager_server.drivers.process.recorded_runs import (
    identified,
    is_of_this_boot,
    last_output_of,
)
from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore
from hostmanager_server.drivers.process.records.directory import RecordDirectory
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.drivers.process.run_trees import RunTrees
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Identity
from hostmanager_server.linux.rlimits import LimitError
from hostmanager_server.linux.subreaper import Orphans

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Run:
    key: RunKey
    identity: Identity
    tree: ProcessTree
    pidfd: int | None  # None after the main process has ended
    process: ProcessSpec
    last_output: Callable[[], str]
    cancel_probe: Callable[[], None] | None = None


class ProcessDriver:
    """Runs agents as processes of this host; see `Driver` for the contract.

    `state_dir` holds the runtime records. `epoch` must be different for each daemon. `call_soon` runs a
    callable on the supervisor thread, and may be called from any thread. `groups` creates the cgroups of
    runs. `store` keeps pidfds across daemons; without one, the driver keeps none. `orphans` makes this
    process a subreaper; the driver closes it. `answers` receives the answers of liveness probes.
    """

    def __init__(
        self,
        poller: Poller,
        post: PostEvent,
        state_dir: Path,
        output: Output,
        epoch: str,
        call_soon: CallSoon,
        groups: Cgroups,
        store: DescriptorStore | None = None,
        orphans: Orphans | None = None,
        answers: LastAnswers | None = None,
    ) -> None:
        gate.seal_descriptors()
        self._poller = poller
        self._post = post
        self._output = output
        self._inherited = command.inherited_environment(os.environ)
        self._groups = groups
        self._records = RecordDirectory(state_dir / "runs")
        self._trees = RunTrees(poller, self._records, orphans or Orphans())
        self._spawner = direct.load_spawner()
        self._prober = Prober(call_soon, poller, self._spawner)
        self._liveness = LivenessWatch(self._prober, post, call_soon, poller.now, answers or LastAnswers())
        self._descriptors = store or DescriptorStore(None, {})
        self._launcher = Launcher(
            output,
            self._records,
            groups,
            self._descriptors,
            epoch,
            self._inherited,
            poller.now,
            self._spawner,
        )
        self._memory = MemoryGuard(poller, call_soon, post)
        self._runs: dict[str, _Run] = {}

    def follow(self, spec: InstanceSpec) -> None:
        """See `Driver.follow`. A process that the driver did not start stays unknown."""
        self._memory.update(spec)
        run = self._runs.get(spec.instance_id)
        if run is not None and run.pidfd is not None and run.cancel_probe is None:
            self._watch_liveness(run, spec)

    def forget(self, spec: InstanceSpec) -> None:
        """See `Driver.forget`."""
        self._output.forget(spec.instance_id, spec.log)
        self._liveness.end(spec.instance_id)

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        """See `Driver.launch`."""
        try:
            reached(Point.INTENT)
            if spec.process is None:
                raise CommandError(spec.problem or "it has no command; set 'command'")
            if run.instance_id in self._runs:
                raise CommandError("its last run is not gone yet; stop that run first")
            to_probe = command.prepare_probe(spec, spec.process, self._inherited)
            launched = self._launcher.launch(run, spec, spec.process)
        except (CommandError, LimitError) as error:
            self._start_failed(run, str(error))
        except OSError as error:
            self._start_failed(run, gate.explain(error))
        except ValueError as error:  # a value that a system call rejects, such as a NUL byte
            self._start_failed(run, f"its command or environment cannot be passed on: {error}; correct it")
        else:
            last_output = functools.partial(
                self._output.last_output, run.instance_id, spec.log, launched.mark
            )
            started = _Run(
                run, launched.identity, launched.tree, launched.pidfd, launched.process, last_output
            )
            self._runs[run.instance_id] = started
            self._trees.follow_descent(started.tree, adopted=False)
            try:
                self._follow(started)
            except OSError as error:  # without a watch, the end of the process would stay unnoticed
                self._abandon(started)
                self._start_failed(run, gate.explain(error))
                return
            other = launched.process if launched.process != spec.process else None
            now = self._poller.now()
            self._memory.watch(MeasuredRun(run.instance_id, run.number, started.identity.pid, now.mono), spec)
            self._post(Started(run, started.identity.pid, now, other, launched.unlimited))
            if spec.ready is None:
                self._post(Ready(run, self._poller.now()))
                self._watch_liveness(started, spec, started=True)
            else:
                ready = functools.partial(self._is_ready, started, spec)
                started.cancel_probe = self._prober.start(spec.ready, to_probe, ready)

    def stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        """See `Driver.stop`."""
        known = self._find(run)
        if known is None:
            return
        self._trees.refresh(known.tree)  # may find that the run is gone
        if known.pidfd is not None:
            pidfds.send_signal(known.pidfd, signum)
        if whole_tree:
            self._trees.signal_members(known.tree, signum)
        reached(Point.STOP_SENT)

    def signal(self, run: RunKey, signum: int, *, whole_tree: bool, done: Done) -> None:
        """See `Driver.signal`."""
        known = self._find(run)
        if known is None or known.pidfd is None:
            done("its main process has ended")
        else:
            done(self._trees.send_signal(known.tree, known.pidfd, signum, whole_tree=whole_tree))

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        """See `Driver.adopt`. Kills processes that never left the gate."""
        records = [
            identified(self._records, r) for r in self._records.read() if is_of_this_boot(self._records, r)
        ]
        alive: list[tuple[Record, int]] = []
        without_main: list[tuple[Record, ExitStatus, ProcessTree]] = []
        for record in records:
            found = find_main_process(record, self._descriptors.passed(record.token))
            if isinstance(found, ExitStatus):
                # The session number may have been reused since: only marker, mark and cgroup count.
                without_main.append((record, found, _tree_of(record)))
            else:
                alive.append((record, found))
        adopted = [self._recover(r, pidfd, specs.get(r.run.instance_id)) for r, pidfd in alive]
        surviving = set(self._trees.find_survivors([tree for _, _, tree in without_main]))
        for record, status, tree in without_main:
            if tree in surviving or self._records.is_locked(record.run.instance_id):
                adopted.append(
                    self._recover_survivors(record, tree, status, specs.get(record.run.instance_id))
                )
            else:
                self._records.remove(record.run.instance_id)
                # An upgraded daemon was passed no descriptors, although the store still holds them.
                self._descriptors.drop(record.token)
                if record.released:
                    said = last_output_of(self._output, record, specs.get(record.run.instance_id))()
                    adopted.append(adopted_run(record, ended=status, gone=True, last_output=said))
        self._groups.sweep({r.group for r in records}, {run.tree.group for run in self._runs.values()})
        self._trees.reap_orphans()
        self._descriptors.close_passed({run.tree.token.decode() for run in self._runs.values()})
        for recovered in adopted:
            spec = specs.get(recovered.run.instance_id)
            if spec is not None:
                self._output.resume(spec.instance_id, spec.log)
        return adopted

    def disown(self) -> None:
        """See `Driver.disown`."""
        for run in self._runs.values():
            self._let_go(run)
        self._runs.clear()
        self._trees.clear()

    def close(self) -> None:
        """See `Driver.close`."""
        self.disown()
        self._trees.close()
        self._groups.close()
        self._prober.close()
        self._memory.close()
        if self._spawner is not None:
            self._spawner.close()
        self._descriptors.close()
        self._records.close()

    def _start_failed(self, run: RunKey, why: str) -> None:
        self._post(StartFailed(run, f"cannot start '{run.instance_id}': {why}", self._poller.now()))

    def _follow(self, run: _Run) -> None:
        self._trees.track(run.tree, run.key.instance_id, functools.partial(self._gone, run))
        if run.pidfd is not None:
            self._poller.watch(run.pidfd, functools.partial(self._main_process_ended, run))

    def _abandon(self, run: _Run) -> None:
        """Kill and forget a run that cannot be watched."""
        del self._runs[run.key.instance_id]
        if run.pidfd is not None:
            self._trees.refresh(run.tree)
            with contextlib.suppress(OSError):
                kill_members(run.tree)
            pidfds.send_signal(run.pidfd, signal.SIGKILL)
            with contextlib.suppress(OSError):
                # The main process is unreaped, so the process group still has its number.
                os.killpg(run.identity.pid, signal.SIGKILL)
            pidfds.has_ended(run.pidfd, GATE_ENDS)
            with contextlib.suppress(ChildProcessError):
                if pidfds.reap(run.pidfd) is None:  # a debugger keeps the process, or it does not end
                    self._trees.reap_later(run.identity.pid)
            os.close(run.pidfd)
        self._trees.untrack(run.tree)
        self._discard(run)

    def _main_process_ended(self, run: _Run) -> None:
        # The wake-up may concern an earlier owner of the descriptor's number.
        ended = None if run.pidfd is None else end_of_child(run.identity, run.pidfd, run.process.limits)
        if ended is None:
            return
        status, unreaped = ended
        if status.signal == signal.SIGKILL and run.tree.group is not None:
            with contextlib.suppress(OSError):  # no descriptors: the cause stays unknown
                status = replace(status, out_of_memory=run.tree.group.out_of_memory())
        if unreaped:
            self._trees.reap_later(run.identity.pid)
        reached(Point.EXIT_OBSERVED)
        self._let_go(run)
        self._report_end(run, status)

    def _report_end(self, run: _Run, status: ExitStatus) -> None:
        """Post Exited once the rest of the tree is known.

        When the tree is empty, Gone follows immediately, and no reader mistakes the tree for a living one.
        """
        exited = Exited(run.key, status, self._poller.now(), run.last_output())
        self._trees.main_process_ended(run.tree, functools.partial(self._post, exited))

    def _discard(self, run: _Run) -> None:
        """Remove the record, the cgroup and the stored pidfd of a run.

        The next daemon then finds no trace of the run.
        """
        self._records.remove(run.key.instance_id)
        self._groups.drop(run.tree.group)
        self._descriptors.drop(run.tree.token.decode())

    def _gone(self, run: _Run) -> None:
        self._discard(run)
        del self._runs[run.key.instance_id]
        self._post(Gone(run.key, self._poller.now()))

    def _is_ready(self, run: _Run, spec: InstanceSpec) -> None:
        run.cancel_probe = None
        self._records.mark(run.key.instance_id, ready=True)
        self._post(Ready(run.key, self._poller.now()))
        self._watch_liveness(run, spec, started=True)

    def _watch_liveness(self, run: _Run, spec: InstanceSpec, *, started: bool = False) -> None:
        make_command = functools.partial(command.prepare_liveness, spec, run.process, self._inherited)
        self._liveness.begin(run.key, spec, make_command, started=started)

    def _find(self, key: RunKey) -> _Run | None:
        run = self._runs.get(key.instance_id)
        return run if run is not None and run.key == key else None

    def _let_go(self, run: _Run) -> None:
        if run.cancel_probe is not None:
            run.cancel_probe()
            run.cancel_probe = None
        self._liveness.end(run.key.instance_id)
        if run.pidfd is not None:
            self._poller.unwatch(run.pidfd)
            os.close(run.pidfd)
            run.pidfd = None
            self._memory.unwatch(run.key)

    def _recover(self, record: Record, pidfd: int, spec: InstanceSpec | None) -> Adopted:
        """Follow a run again that has a living main process."""
        pid = record.identity.pid
        tree = _tree_of(record, pid)
        self._trees.follow_descent(tree, adopted=True)
        run = self._resume(record, tree, pidfd, spec)
        ready = record.ready or spec is None or self._probe_again(run, record, spec)
        if not record.released:
            self._records.mark(record.run.instance_id, ready=ready)
        if ready and spec is not None:
            self._watch_liveness(run, spec)
        return adopted_run(record, ready=ready)

    def _probe_again(self, run: _Run, record: Record, spec: InstanceSpec) -> bool:
        """Start the readiness probe of a recovered run.

        Returns True when the run counts as ready: it has no probe, or the probe cannot run.
        """
        if spec.ready is None:
            return True
        try:
            to_probe = command.prepare_probe(spec, record.process, self._inherited)
        except CommandError as error:  # no reason to stop a running agent
            _log.warning("'%s' counts as ready without a probe: %s", spec.instance_id, error)
            return True
        run.cancel_probe = self._prober.start(
            spec.ready, to_probe, functools.partial(self._is_ready, run, spec)
        )
        return False

    def _recover_survivors(
        self, record: Record, tree: ProcessTree, status: ExitStatus, spec: InstanceSpec | None
    ) -> Adopted:
        """Follow a run again that has descendants left, but no main process."""
        run = self._resume(record, tree, None, spec)

        def check_tree() -> None:
            if self._find(run.key) is run:
                self._trees.main_process_ended(run.tree, lambda: None)

        self._poller.call_later(0.0, check_tree)  # After `adopt` has returned, and the caller knows the run.
        return adopted_run(record, ended=status, last_output=run.last_output())

    def _resume(
        self, record: Record, tree: ProcessTree, pidfd: int | None, spec: InstanceSpec | None
    ) -> _Run:
        last_output = last_output_of(self._output, record, spec)
        run = _Run(record.run, record.identity, tree, pidfd, record.process, last_output)
        self._runs[record.run.instance_id] = run
        self._follow(run)
        if pidfd is not None:
            key, pid = record.run, record.identity.pid
            self._memory.watch(MeasuredRun(key.instance_id, key.number, pid, record.started.mono), spec)
        return run


def _tree_of(record: Record, main_pid: int = 0) -> ProcessTree:
    uids = tuple(agent_uids(record.uid, record.process.user))
    return ProcessTree(record.token.encode(), main_pid, main_pid, record.group, uids, record.mark)
