"""Daemons with deliberate bugs, which the referee must detect.

`python mutant.py NAME serve ...` runs a daemon with one step replaced. Each method below overrides the method
of the same name.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from hostmanager_server.commands.serve import serve_command
from hostmanager_server.core.events import Adopted, ExitStatus, RunKey
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.daemon import parts, recovery
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.exec.gate import Gate
from hostmanager_server.drivers.output import stream
from hostmanager_server.drivers.output.log_directory import LogDirectory
from hostmanager_server.drivers.process import driver as process_driver
from hostmanager_server.drivers.process import run_trees
from hostmanager_server.drivers.process.driver import ProcessDriver
from hostmanager_server.drivers.process.launcher import Launched, Launcher, _Start
from hostmanager_server.drivers.process.process_table import ProcessTree
from hostmanager_server.drivers.process.records import directory as record_directory
from hostmanager_server.drivers.process.records.files import RecordFile, find_record_files
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.drivers.process.tree_tracker import TreeTracker
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Identity
from hostmanager_server.linux.spawning import Spawner
from hostmanager_server.rpc import service
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.selecting import InstanceFilter
from hostmanager_server.rpc.watch import WatchRpcs
from hostmanager_server.state.journal import Journal
from hostmanager_server.state.store import StoreChanges


class NaiveLauncher(Launcher):
    """A launcher that records an agent after the start, as most supervisors do."""

    def _start_recorded(self, start: _Start, spawner: Spawner) -> Launched:
        record = self._record(start, pidfds.unknown_process())
        pid, pidfd = self._spawn(start, record, spawner)
        start.follow(pid)
        reached(Point.SPAWNED)
        identity = pidfds.identify(pid, pidfd) or record.identity
        start.draft.commit(replace(record, identity=identity, released=True))
        return Launched(identity, start.tree, pidfd, start.process, start.mark)


class OpenGateLauncher(Launcher):
    """A launcher that lets an agent through the gate before it is recorded."""

    def _start_recorded(self, start: _Start, spawner: Spawner) -> Launched:
        return self._start_in_gate(start)

    def _pass_gate(self, start: _Start, child: Gate) -> Launched:
        child.release()
        open_gate = Gate(child.pid, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        try:
            return super()._pass_gate(start, open_gate)
        finally:
            os.close(open_gate.descriptor)


class ForgetfulDriver(ProcessDriver):
    """A driver that recovers no runs of an earlier daemon."""

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        return []


class HastyJournal(Journal):
    """A journal that reports a change as stored before writing."""

    def save(self, **change: Any) -> Future[None]:
        write = super().save
        threading.Timer(0.1, lambda: write(**change)).start()
        done: Future[None] = Future()
        done.set_result(None)
        return done


class BlindTracker(TreeTracker):
    """A tracker that ignores the survivors of agents that ended while no daemon ran."""

    def find_survivors(self, trees: list[ProcessTree]) -> list[ProcessTree]:
        return []


class SkippingWatch(WatchRpcs):
    """A watch that omits every seventh change."""

    _sent = 0

    async def _delta(
        self, caller: Caller, cursor: int, changes: StoreChanges, wanted: InstanceFilter
    ) -> tuple[bytes, ...]:
        SkippingWatch._sent += 1
        return () if SkippingWatch._sent % 7 == 0 else await super()._delta(caller, cursor, changes, wanted)


class RuthlessDriver(ProcessDriver):
    """A driver that signals every process with the agent's command line, as scripts with pkill do."""

    def stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        known = self._find(run)
        cmdline = b"" if known is None else _command_line(known.identity.pid)
        super().stop(run, signum, whole_tree=whole_tree)
        for entry in os.listdir("/proc"):
            if cmdline and entry.isdigit() and _command_line(int(entry)) == cmdline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry), signum)


class LeakyDriver(ProcessDriver):
    """A driver that leaks a descriptor at each start."""

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        super().launch(run, spec)


def _trust_all_descriptors(directory: Path) -> list[RecordFile]:
    """Replace `find_record_files`: trust the paths of descriptors alone."""
    found = find_record_files(directory)
    for entry in os.listdir("/proc"):
        link = f"/proc/{entry}/fd/{gate.lock_descriptor()}"
        with contextlib.suppress(OSError):
            path = os.readlink(link).removesuffix(" (deleted)")
            if path != os.readlink(link) and os.path.dirname(path) == str(directory):
                file = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
                data = os.pread(file, 1 << 20, 0)
                found.append(RecordFile(path, False, data, True, Record.from_json(data), "", file))
    return found


class TrustingDirectory(LogDirectory):
    """A log directory that opens files by path, through links, as most supervisors do."""

    def open_for_append(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.path(name), flags, 0o640)

    def create(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(self.path(name), flags, 0o640)


def _poll_without_reaping(
    identity: Identity, pidfd: int, limits: object = ()
) -> tuple[ExitStatus, bool] | None:
    """Replace `end_of_child`: poll the process and leave a zombie."""
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return ExitStatus(), False
    return None if found is None else (ExitStatus(code=0), False)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Mutant(Enum):
    """The bug of a daemon."""

    NAIVE = "naive"
    OPEN_GATE = "open-gate"
    FORGETFUL = "forgetful"
    HASTY = "hasty"
    BLIND = "blind"
    SKIPPING = "skipping"
    RUTHLESS = "ruthless"
    LEAKY = "leaky"
    NEGLIGENT = "negligent"
    CREDULOUS = "credulous"
    TRUSTING = "trusting"


# The module and the name that each mutant replaces.
REPLACED: Mapping[Mutant, tuple[ModuleType, str, object]] = {
    Mutant.NAIVE: (process_driver, "Launcher", NaiveLauncher),
    Mutant.OPEN_GATE: (process_driver, "Launcher", OpenGateLauncher),
    Mutant.FORGETFUL: (parts, "ProcessDriver", ForgetfulDriver),
    Mutant.HASTY: (recovery, "Journal", HastyJournal),
    Mutant.BLIND: (run_trees, "TreeTracker", BlindTracker),
    Mutant.SKIPPING: (service, "WatchRpcs", SkippingWatch),
    Mutant.RUTHLESS: (parts, "ProcessDriver", RuthlessDriver),
    Mutant.LEAKY: (parts, "ProcessDriver", LeakyDriver),
    Mutant.NEGLIGENT: (process_driver, "end_of_child", _poll_without_reaping),
    Mutant.CREDULOUS: (record_directory, "find_record_files", _trust_all_descriptors),
    Mutant.TRUSTING: (stream, "LogDirectory", TrustingDirectory),
}


if __name__ == "__main__":
    setattr(*REPLACED[Mutant(sys.argv[1])])
    serve_command(sys.argv[3:])  # the arguments after the name and `serve`
