"""Starts the main process of a run, which becomes the agent once it is recorded."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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
from hostmanager_server.drivers.process.records.directory import Draft, RecordDirectory
from hostmanager_server.drivers.process.records.files import file_name
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Identity
from hostmanager_server.linux.rlimits import apply_limits


@dataclass(frozen=True, slots=True)
class Launched:
    """A main process that was let go, and what it was made from; `pidfd` is for the caller to close."""

    identity: Identity
    tree: ProcessTree
    pidfd: int
    process: ProcessSpec


class Launcher:
    """Launches through the gate: whenever the daemon dies, a process is recorded or leaves by itself.

    `epoch` must be different for each daemon: with a count it makes the markers of runs.
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
        """Start it. Raises CommandError, LimitError, OSError, ValueError; nothing of it is left then."""
        unknown = self._records.unreadable(run.instance_id)
        if unknown is not None:
            who = f"pid {', '.join(map(str, unknown))}" if unknown else "something"
            raise CommandError(
                f"{who} of a run whose record cannot be read is alive; end that, or have a daemon that can "
                "read it take it back"
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
        """RecordDirectory the child and lets it become the agent. When that fails, nothing of it is left."""
        pidfd = None
        try:
            pidfd = os.pidfd_open(child.pid)
            reached(Point.SPAWNED)
            who = pidfds.identify(child.pid, pidfd)
            if who is None:
                raise CommandError("its process vanished; somebody else reaps the daemon's children")
            now, token = self._now(), tree.token.decode()
            if not any(name == membership.LIMIT_NAME for name, _ in process.limits):
                tree.mark = membership.put_mark(child.pid)
            draft.commit(
                Record(
                    run, token, who, now, process, spec.agent_class, ready=spec.ready is None,
                    group=tree.group, uid=min(tree.uids), mark=tree.mark,
                )
            )  # fmt: skip
            apply_limits(child.pid, process.limits)
            reached(Point.RECORDED)
        except BaseException:
            # Unreaped, so the pid is still the child's.
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            if pidfd is not None:
                os.close(pidfd)
            self._records.remove(run.instance_id)
            raise
        self._store.keep(token, pidfd)
        child.release()
        reached(Point.RELEASED)
        # So does the gate; but it may take its time, and the next daemon must not take it for one in waiting.
        with contextlib.suppress(OSError):
            draft.mark_released()
        return Launched(who, tree, pidfd, process)
