"""The launch of a run: a child waits in the gate, is recorded, becomes the agent."""

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
from hostmanager_server.drivers.exec import command, gate
from hostmanager_server.drivers.exec.command import INSTANCE_MARKER, RUN_MARKER, CommandError
from hostmanager_server.drivers.exec.gate import Gate
from hostmanager_server.drivers.output.directory_walk import RefusedFileError
from hostmanager_server.drivers.process import membership
from hostmanager_server.drivers.process.cgroup import Cgroups
from hostmanager_server.drivers.process.process_table import ProcessTree
from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore
from hostmanager_server.drivers.process.records.directory import RecordDirectory
from hostmanager_server.drivers.process.records.draft import Draft
from hostmanager_server.drivers.process.records.files import file_name
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Identity
from hostmanager_server.linux.rlimits import apply_limits


@dataclass(frozen=True, slots=True)
class Launched:
    """A main process that left the gate, and its spec; the caller closes `pidfd`."""

    identity: Identity
    tree: ProcessTree
    pidfd: int
    process: ProcessSpec


class Launcher:
    """Starts main processes through the gate, so that none is ever unrecorded.

    `epoch` must be different for each daemon; epoch and a counter form the run markers.
    """

    def __init__(
        self, output: Output, records: RecordDirectory, groups: Cgroups, store: DescriptorStore, epoch: str,
        inherited: Mapping[str, str], now: Callable[[], Instant],
    ) -> None:  # fmt: skip
        self._output = output
        self._records = records
        self._groups = groups
        self._store = store
        self._epoch = epoch
        self._count = itertools.count(1)
        self._inherited = inherited
        self._now = now

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
            path = None if group is None else group.path
            try:
                child = gate.spawn(
                    prepared.argv, prepared.working_dir, prepared.env, output, draft.lock, draft.flag, path
                )
                stack.callback(os.close, child.descriptor)
                tree = ProcessTree(token.encode(), child.pid, child.pid, group, {prepared.uid})
                return self._pass_gate(run, tree, spec, process, draft, child)
            except BaseException:
                self._groups.drop(group)
                raise

    def _pass_gate(
        self,
        run: RunKey,
        tree: ProcessTree,
        spec: InstanceSpec,
        process: ProcessSpec,
        draft: Draft,
        child: Gate,
    ) -> Launched:
        """Record the child and let it become the agent; on failure, leave no process."""
        pidfd = None
        try:
            pidfd = os.pidfd_open(child.pid)
            reached(Point.SPAWNED)
            identity = pidfds.identify(child.pid, pidfd)
            if identity is None:
                raise CommandError("its process vanished: another part of the daemon reaped the child")
            now, token = self._now(), tree.token.decode()
            if not any(name == membership.LIMIT_NAME for name, _ in process.limits):
                tree.mark = membership.put_mark(child.pid)
            draft.commit(
                Record(
                    run, token, identity, now, process, spec.agent_class, ready=spec.ready is None,
                    group=tree.group, uid=min(tree.uids), mark=tree.mark,
                )
            )  # fmt: skip
            apply_limits(child.pid, process.limits)
            reached(Point.RECORDED)
        except BaseException:
            # The child is unreaped, so the pid is still the child's.
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            if pidfd is not None:
                os.close(pidfd)
            self._records.remove(run.instance_id)
            raise
        self._store.keep(token, pidfd)
        child.release()
        reached(Point.RELEASED)
        # The gate notes the release too, but perhaps late, and the next daemon must not mistake a released
        # child for a waiting one.
        with contextlib.suppress(OSError):
            draft.mark_released()
        return Launched(identity, tree, pidfd, process)
