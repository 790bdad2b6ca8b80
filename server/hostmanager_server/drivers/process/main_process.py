"""The main process of a recorded run: found by the next daemon, or ended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

from hostmanager.values import replace

from hostmanager_server.core.events import Adopted, ExitStatus
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.membership import agent_uids, has_mark_or_marker
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Identity

LimitPairs = Iterable[tuple[str, int | None]]
GATE_ENDS = 1_000  # ms for a killed gate to end
# The kernel holds sampled CPU time against the limit, and /proc shows the exact time: a process was killed at
# its limit of 1 s with 0.92 s shown.
_NEAR_LIMIT, _SAMPLED = 0.9, 0.2
_SHORTLY = 20  # ms between two readings of the command line, for an exec or an exit to finish
_GATE_READINGS = 10


def find_main_process(record: Record, kept: int | None) -> int | ExitStatus:
    """Return a pidfd of the recorded main process, or its exit status.

    The caller closes the pidfd. `kept` is the pidfd that the service manager kept while no daemon was
    alive. The exit status is empty where the kernel cannot report one. A process that was still in the gate
    when its daemon died is leaving, because its pipe is closed; the function kills the process instead of
    waiting.
    """
    identity = record.identity
    pidfd = pidfds.open_verified(identity)
    if pidfd is None:
        # The kernel assigns an inode number of a pidfd once per boot: the same number is the same process,
        # even if another process has the pid now.
        if kept is not None and identity.inode and pidfds.inode(kept) == identity.inode:
            return pidfds.exit_status_of_non_child(identity, kept)
        return ExitStatus()
    if not record.released and _is_in_gate(identity.pid, pidfd):
        pidfds.send_signal(pidfd, signal.SIGKILL)
        pidfds.has_ended(pidfd, GATE_ENDS)
    if not pidfds.has_ended(pidfd):
        return pidfd
    try:
        return status_of_ended(identity, pidfd, record.process.limits)
    finally:
        os.close(pidfd)


def identify_main_process(record: Record) -> Record:
    """Return the record with start time and inode of its main process, where these are missing.

    A daemon that dies right after a start leaves a record with the pid alone. The process with that pid
    counts only with the mark or the marker of the run: before its program runs, the process has the mark.
    """
    pid = record.identity.pid
    if not pid or record.identity.start:
        return record
    pidfd = pidfds.open_pidfd(pid)
    if pidfd is None:
        return record
    try:
        uids = agent_uids(record.uid, record.process.user) | {os.getuid()}
        for _ in range(_GATE_READINGS):
            if has_mark_or_marker(pid, record.token.encode(), record.mark, uids):
                return replace(record, identity=pidfds.identify(pid, pidfd) or record.identity)
            # A process without a mark shows the marker once its program runs.
            if record.mark is not None or pidfds.has_ended(pidfd, _SHORTLY):
                break
        return record
    finally:
        os.close(pidfd)


def _is_in_gate(pid: int, pidfd: int) -> bool:
    for _ in range(_GATE_READINGS):
        # During an exec or an exit the command line reads empty.
        cmdline = _command_line(pid)
        if cmdline or pidfds.has_ended(pidfd, _SHORTLY):
            break
    return gate.still_in_gate(cmdline)


def _command_line(pid: int) -> bytes:
    try:
        return pidfds.read_file(f"/proc/{pid}/cmdline")
    except OSError:  # the process has ended meanwhile
        return b""


def end_of_child(identity: Identity, pidfd: int, limits: LimitPairs) -> tuple[ExitStatus, bool] | None:
    """Reap a process, and return its exit status and whether it stays unreaped; None while it runs.

    A debugger that traces the process must let go before anything can reap it. The status of a process with
    another parent is read without reaping it, and empty if unknown.
    """
    if "cpu" not in dict(limits):  # one system call serves nearly every end
        with contextlib.suppress(ChildProcessError):
            status = pidfds.reap(pidfd)
            if status is not None:
                return status, False
    if not pidfds.has_ended(pidfd):
        return None
    return status_of_ended(identity, pidfd, limits), pidfds.is_child(pidfd)


def status_of_ended(identity: Identity, pidfd: int, limits: LimitPairs = ()) -> ExitStatus:
    """Return the exit status of an ended process, empty if unknown; reap a child.

    The kernel kills a process at its hard limit of CPU time with SIGKILL, without SIGXCPU where both limits
    are equal. Only the CPU time of the unreaped child tells such an end from other kills.
    """
    cpu = dict(limits).get("cpu")
    stat = pidfds.read_stat(identity.pid) if cpu is not None else None
    status = None
    with contextlib.suppress(ChildProcessError):
        status = pidfds.reap(pidfd)
    if status is None:
        return pidfds.exit_status_of_non_child(identity, pidfd)
    if cpu is not None and stat is not None and status.signal == signal.SIGKILL:
        used = stat.cpu_ticks / os.sysconf("SC_CLK_TCK")
        if used >= max(cpu, 1) * _NEAR_LIMIT - _SAMPLED:  # a limit of 0 means 1, see setrlimit(2)
            return replace(status, limit="cpu")
    return status


def adopted_run(
    record: Record, *, ended: ExitStatus | None = None, gone: bool = False, ready: bool = True,
    last_output: str = "",
) -> Adopted:  # fmt: skip
    """Return the Adopted event for a recorded run."""
    return Adopted(
        record.run, record.identity.pid, record.started, record.process, ended, gone, ready,
        record.agent_class, last_output,
    )  # fmt: skip
