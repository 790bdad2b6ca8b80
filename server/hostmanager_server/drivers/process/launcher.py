"""The launch of a run: recorded first, then started; or, behind a gate, started, recorded and released."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Mapping

from hostmanager.values import dataclass, replace

from hostmanager_server.core.events import Instant, RunKey
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec
from hostmanager_server.drivers.contract import Output
from hostmanager_server.drivers.exec import command, direct, gate
from hostmanager_server.drivers.exec.command import INSTANCE_MARKER, RUN_MARKER, CommandError, ExecCommand
from hostmanager_server.drivers.exec.gate import Gate
from hostmanager_server.drivers.output.directory_walk import RefusedFileError
from hostmanager_server.drivers.output.stream import OutputMark
from hostmanager_server.drivers.process import membership
from hostmanager_server.drivers.process.cgroup import Cgroups
from hostmanager_server.drivers.process.process_table import ProcessTree
from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore
from hostmanager_server.drivers.process.records.directory import RecordDirectory
from hostmanager_server.drivers.process.records.draft import Draft
from hostmanager_server.drivers.process.records.files import file_name
from hostmanager_server.drivers.process.records.record import RELEASED_AT, Record
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Identity
from hostmanager_server.linux.rlimits import apply_limits, refused_limit, resolve_limits
from hostmanager_server.linux.spawning import Heritage, Note, ResourceLimit, Spawner, SpawnError, Step


@dataclass(frozen=True, slots=True)
class Launched:
    """A started main process, its spec, and where its output begins; the caller closes `pidfd`."""

    identity: Identity
    tree: ProcessTree
    pidfd: int
    process: ProcessSpec
    mark: OutputMark
    unlimited: str = ""  # why the memory has no limit although the spec has one


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """A prepared start; the caller closes `draft` and `output`."""

    run: RunKey
    tree: ProcessTree
    spec: InstanceSpec
    process: ProcessSpec
    limits: list[tuple[str, ResourceLimit]]
    draft: Draft
    command: ExecCommand
    output: int
    mark: OutputMark

    @property
    def may_have_mark(self) -> bool:
        """False for a run with its own limit in the place of the mark."""
        return all(name != membership.LIMIT_NAME for name, _ in self.process.limits)

    def follow(self, pid: int) -> None:
        """Note the main process in the tree."""
        self.tree.main_pid = self.tree.session = pid


class Launcher:
    """Starts main processes such that none is ever unrecorded.

    With a spawner, the record is written first, without the numbers of the process, and the child notes its
    own pid there before it becomes the agent. Without one, the child waits in a gate until it is recorded.

    `epoch` must be different for each daemon; epoch and a counter form the run markers.
    """

    def __init__(
        self, output: Output, records: RecordDirectory, groups: Cgroups, store: DescriptorStore, epoch: str,
        inherited: Mapping[str, str], now: Callable[[], Instant], spawner: Spawner | None,
    ) -> None:  # fmt: skip
        self._output = output
        self._records = records
        self._groups = groups
        self._store = store
        self._epoch = epoch
        self._count = itertools.count(1)
        self._inherited = inherited
        self._now = now
        self._spawner = spawner

    def launch(self, run: RunKey, spec: InstanceSpec, process: ProcessSpec) -> Launched:
        """Start the main process of a run and return it.

        Raises CommandError, LimitError, OSError or ValueError; no process of the run is left then.
        """
        unknown = self._records.unreadable(run.instance_id)
        if unknown is not None:
            holders = f"pid {', '.join(map(str, unknown))}" if unknown else "a process"
            raise CommandError(
                f"{holders} of an earlier run with an unreadable record is alive; end that process, or "
                "start a daemon version that can read the record"
            )
        limits = resolve_limits(process.limits)
        prepared = command.prepare(process, process.argv, self._inherited)
        if process.env_files:
            process = replace(process, env_files=prepared.env_files)
        token = f"{self._epoch}.{next(self._count)}"
        prepared.env.update({RUN_MARKER: token, INSTANCE_MARKER: run.instance_id})
        with contextlib.ExitStack() as stack:
            try:
                output = self._output.open_for_append(run.instance_id, spec.log)
            except RefusedFileError as error:
                raise CommandError(f"cannot write its output to {error}") from error
            except PermissionError as error:
                raise CommandError(
                    f"its log '{error.filename}' cannot be written: {error.strerror}; "
                    "change 'log-dir' or its owner"
                ) from error
            stack.callback(os.close, output)
            draft = self._records.draft(run.instance_id)
            stack.callback(draft.close)
            group = self._groups.make(f"{file_name(run.instance_id)}.{token}")
            unlimited = "" if process.memory is None else self._groups.limit_memory(group, process.memory)
            tree = ProcessTree(token.encode(), 0, 0, group, (prepared.uid,))
            start = _Start(
                run, tree, spec, process, limits, draft, prepared, output,
                self._output.mark(run.instance_id, spec.log, output),
            )  # fmt: skip
            try:
                if self._spawner is None:
                    launched = self._start_in_gate(start)
                else:
                    launched = self._start_recorded(start, self._spawner)
                return replace(launched, unlimited=unlimited)
            except BaseException:
                self._groups.drop(group)
                raise

    def _start_recorded(self, start: _Start, spawner: Spawner) -> Launched:
        """Record the run, then start its main process; on failure, leave no process."""
        if start.may_have_mark:
            start.tree.mark = membership.new_mark()
        record = self._record(start, pidfds.unknown_process())
        instance_id = start.run.instance_id
        try:
            start.draft.commit(record)
            reached(Point.RECORDED)
            pid, pidfd = self._spawn(start, record, spawner)
        except BaseException:
            self._records.remove(instance_id)
            raise
        start.follow(pid)
        identity = replace(pidfds.unknown_process(), pid=pid)
        # The agent runs, and its record names the pid: a failure here loses only what a scan finds again.
        with contextlib.suppress(OSError):
            reached(Point.SPAWNED)
            identity = pidfds.identify_child(pid, pidfd)
            start.draft.identify(identity)
        self._store.keep(record.token, pidfd)
        with contextlib.suppress(OSError):
            reached(Point.RELEASED)
        return Launched(identity, start.tree, pidfd, start.process, start.mark)

    @staticmethod
    def _spawn(start: _Start, record: Record, spawner: Spawner) -> tuple[int, int]:
        text, digits = record.noted_start()
        mark, group = start.tree.mark, start.tree.group
        directory = -1
        if group is not None:
            with contextlib.suppress(FileNotFoundError, PermissionError):  # removed by another program
                directory = os.open(group.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        heritage = Heritage(
            output=start.output,
            lock=start.draft.lock,
            lock_number=gate.lock_descriptor(),
            note=Note(start.draft.flag, RELEASED_AT, text, digits),
            mark=None if mark is None else membership.as_limit(mark),
            limits=[limit for _, limit in start.limits],
            cgroup=directory,
        )
        try:
            return direct.spawn(spawner, start.command, heritage)
        except SpawnError as error:
            if error.step is not Step.LIMIT:
                raise
            raise refused_limit(*start.limits[error.limit], error) from error
        finally:
            if directory >= 0:
                os.close(directory)

    def _start_in_gate(self, start: _Start) -> Launched:
        command, group = start.command, start.tree.group
        direct.check_executable(command)
        child = gate.spawn(
            command.argv, command.working_dir, command.env, start.output, start.draft.lock, start.draft.flag,
            None if group is None else group.path, command.umask,
        )  # fmt: skip
        try:
            start.follow(child.pid)
            return self._pass_gate(start, child)
        finally:
            os.close(child.descriptor)

    def _record(self, start: _Start, identity: Identity) -> Record:
        tree, spec = start.tree, start.spec
        return Record(
            start.run, tree.token.decode(), identity, self._now(), start.process, spec.agent_class,
            ready=spec.ready is None, group=tree.group, uid=min(tree.uids), mark=tree.mark, output=start.mark,
        )  # fmt: skip

    @staticmethod
    def _set_nice(pid: int, nice: int | None) -> None:
        try:
            gate.set_nice(pid, nice)
        except OSError as error:
            raise CommandError(gate.refused_nice(nice, error)) from error

    def _pass_gate(self, start: _Start, child: Gate) -> Launched:
        """Record the child and let it become the agent; on failure, leave no process."""
        pidfd = None
        try:
            pidfd = os.pidfd_open(child.pid)
            reached(Point.SPAWNED)
            identity = pidfds.identify(child.pid, pidfd)
            if identity is None:
                raise CommandError("its process vanished: another part of the daemon reaped the child")
            if start.may_have_mark:
                start.tree.mark = membership.put_mark(child.pid)
            start.draft.commit(self._record(start, identity))
            apply_limits(child.pid, start.limits)
            self._set_nice(child.pid, start.command.nice)
            reached(Point.RECORDED)
        except BaseException:
            # The child is unreaped, so the pid is still the child's.
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            if pidfd is not None:
                os.close(pidfd)
            self._records.remove(start.run.instance_id)
            raise
        self._store.keep(start.tree.token.decode(), pidfd)
        child.release()
        reached(Point.RELEASED)
        # The gate notes the release too, but perhaps late, and the next daemon must not mistake a released
        # child for a waiting one.
        with contextlib.suppress(OSError):
            start.draft.mark_released()
        return Launched(identity, start.tree, pidfd, start.process, start.mark)
